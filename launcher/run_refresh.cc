#include "launcher/run_refresh.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <chrono>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "common/failpoint.h"
#include "worker/arm.h"
#include "worker/refresh/group_sums.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Between two looks for a request, and between two questions to workers that still build.
constexpr std::chrono::seconds kLook{1};
constexpr std::chrono::milliseconds kAskAgain{10};
constexpr const char* kBusy = "busy";

Json FiguresOf(const RefreshFigures& f) {
  Json levels = Json::array();
  for (size_t l = 0; l < f.build.levels.size(); ++l) {
    levels.push_back({{"perplexity", f.build.levels[l].perplexity},
                      {"dead", f.build.levels[l].dead},
                      {"largest_share", f.build.levels[l].largest_share},
                      {"churn", f.build.churn[l]},
                      {"iterations", f.build.iterations[l]}});
  }
  Json json = {{"contents", f.build.contents},
               {"rq_mse_before", f.build.rq_mse_before},
               {"rq_mse", f.build.rq_mse},
               {"levels", std::move(levels)},
               {"reseeded", f.build.reseeded},
               {"sha256", f.build.sha256},
               {"cpu_s", f.cpu_s},
               {"wall_s", f.wall_s}};
  if (f.preserved_r2) json["preserved_r2"] = *f.preserved_r2;
  if (f.prefixes > 0) json["prefixes"]["made"] = f.prefixes;
  if (f.z_moved) json["z_moved"] = *f.z_moved;
  if (f.auc_before && f.auc_after) {
    json["replay_auc"] = {{"before", *f.auc_before}, {"after", *f.auc_after}};
  }
  return json;
}

}  // namespace

// What is built beside training, in a thread of its own.
struct RunRefresh::Job {
  std::atomic<bool> give_up = false;
  std::atomic<bool> done = false;
  std::atomic<int64_t> step = 0;  // training's next
  std::unique_ptr<Group> group;
  RefreshPlan plan;
  absl::StatusOr<RefreshResult> result = absl::UnknownError("not done");
  std::thread thread;

  ~Job() {
    give_up = true;
    if (thread.joinable()) thread.join();
  }
};

RunRefresh::RunRefresh(const RefreshWorld& world)
    : world_(world),
      flow_({.switch_after_steps = world.config->refresh.switch_after_steps,
             .probation_steps = world.config->refresh.probation_steps}) {
  if (world.state->probation) flow_.StartInProbation(world.state->since_step);
}

RunRefresh::~RunRefresh() = default;

const RefreshRequest* RunRefresh::Request() {
  const auto now = SteadyClock::now();
  if (now - looked_ >= kLook) {
    looked_ = now;
    absl::StatusOr<std::optional<RefreshRequest>> found = ReadRefreshRequest(world_.run);
    LOG_IF(ERROR, !found.ok()) << found.status().message();
    request_ = found.ok() ? *found : std::nullopt;
  }
  return request_ ? &*request_ : nullptr;
}

void RunRefresh::AddWishes(bool committing, StepWishes* wishes) {
  wishes->refresh_busy = job_ != nullptr && (!job_->done || (lead() && committing));
  wishes->refresh_give_up = job_ != nullptr && job_->done && !job_->result.ok();
  if (!lead()) return;
  wishes->roll_back = RollbackAsked();
  if (flow_.state() != RefreshState::kIdle) return;
  const int64_t at_step = world_.config->refresh.at_step;
  const bool by_step = at_step > 0 && world_.state->version == 0 && !given_up_ &&
                       world_.trainer->step() + 1 >= at_step;
  const RefreshRequest* const request = Request();
  const bool by_hand = request != nullptr && request->what == RefreshRequest::What::kRefresh &&
                       request->version > world_.state->version;
  const bool by_drift = world_.config->refresh.on_drift && !drifted_.empty();
  const bool by_itself = (by_step || by_drift) && !world_.state->by_hand_only;
  wishes->refresh_begin = (by_hand || by_itself) && CanBuild().ok();
  if (wishes->refresh_begin) {
    why_ = by_hand ? "by hand" : by_step ? "refresh.at_step" : "drift: " + drifted_;
  }
}

bool RunRefresh::HasCodebook() const {
  // Of shuffled codes there is nothing to keep.
  const Arm arm = ArmOf(world_.config->model.arm);
  return arm.uses_codes() && !arm.shuffled_codes;
}

absl::Status RunRefresh::CanBuild() const {
  if (!HasCodebook()) {
    return absl::FailedPreconditionError(
        fmt::format("model.arm = \"{}\" has no codebook to refresh", world_.config->model.arm));
  }
  if (world_.state->builds < kMostBuilds) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "with model.prefix_ngrams a run builds {} codebooks at most, and this one has", kMostBuilds));
}

bool RunRefresh::HasPrefixes() const { return PrefixesOf(*world_.config) > 0; }

bool RunRefresh::RollbackAsked() {
  const RefreshRequest* const request = Request();
  return request != nullptr && request->what == RefreshRequest::What::kRollback &&
         request->version < world_.state->version && world_.state->probation;
}

absl::StatusOr<bool> RunRefresh::AfterStep(const StepFigures& figures, int64_t committed) {
  if (job_) job_->step = world_.trainer->step();
  if (lead()) {
    AnswerRequest(committed);
    SAVIOR_RETURN_IF_ERROR(Observe(figures.data_time));
  }
  const StepWishes& wishes = figures.wishes;
  RefreshAction action = flow_.AfterStep(
      world_.trainer->step(), {wishes.refresh_begin, wishes.refresh_busy, wishes.refresh_give_up});
  if (action == RefreshAction::kJudge) {
    SAVIOR_ASSIGN_OR_RETURN(const bool good, Judge());
    action = flow_.Judged(good);
  }
  switch (action) {
    case RefreshAction::kNone:
    case RefreshAction::kJudge:
      return false;
    case RefreshAction::kBegin:
      SAVIOR_RETURN_IF_ERROR(Begin());
      return false;
    case RefreshAction::kPrepare:
      Event("PREPARED");
      world_.trainer->ForgetContents();
      return false;
    case RefreshAction::kSwitch:
      SAVIOR_RETURN_IF_ERROR(Switch());
      return true;
    case RefreshAction::kAbort:
      if (verdict_.empty() && job_->done) verdict_ = Report();
      Abort(verdict_.empty() ? "another worker could not build its part" : verdict_);
      return false;
    case RefreshAction::kRetire:
      Retire();
      return false;
  }
  return false;
}

absl::Status RunRefresh::Observe(int64_t data_time) {
  constexpr int64_t kDay = 86400;
  const int64_t day = data_time / kDay;
  if (day <= day_ || !HasCodebook()) return absl::OkStatus();
  if (std::exchange(day_, day) < 0) return absl::OkStatus();
  if (monitor_ == nullptr) {
    monitor_ = std::make_unique<DriftMonitor>(world_.inputs->log.get(), *world_.config,
                                              *world_.content->codebook, world_.state->version,
                                              world_.content->learnt_until);
  }
  SAVIOR_RETURN_IF_ERROR(monitor_->Advance(day * kDay, world_.store->store()));
  drifted_ = monitor_->Figures().Beyond(world_.config->refresh);
  LOG_IF(INFO, !drifted_.empty()) << "drift: " << drifted_;
  return absl::OkStatus();
}

absl::StatusOr<bool> RunRefresh::Now(std::string* why) {
  why_ = "by hand";
  SAVIOR_RETURN_IF_ERROR(CanBuild());
  SAVIOR_RETURN_IF_ERROR(Begin());
  SAVIOR_ASSIGN_OR_RETURN(const bool good, Judge());
  if (!good) {
    *why = verdict_;
    Abort(verdict_);
    return false;
  }
  SAVIOR_RETURN_IF_ERROR(Switch());
  return true;
}

// T0. No push is under way when the lead copies rows, and none comes before it has said so.
absl::Status RunRefresh::Begin() {
  const auto start = SteadyClock::now();
  SAVIOR_RETURN_IF_ERROR(world_.trainer->Settle());
  version_ = world_.state->version + 1;
  if (HasPrefixes()) ++world_.state->builds;
  world_.trainer->NotePrefixes(HasPrefixes());
  verdict_.clear();
  job_ = std::make_unique<Job>();
  SAVIOR_ASSIGN_OR_RETURN(job_->group,
                          world_.place->workers().Fork(&job_->give_up, DeadlineIn(kPatience)));
  RefreshPlan& plan = job_->plan;
  plan = {.version = version_,
          .build = world_.state->builds,
          .build_in_use = world_.state->build,
          .step = world_.trainer->step(),
          .seen = {}};
  job_->step = plan.step;
  plan.seen.from = world_.inputs->periods.training.from;
  std::optional<RefreshSnapshot> snapshot;
  std::string said;
  if (lead()) {
    SAVIOR_ASSIGN_OR_RETURN(const int64_t time, world_.trainer->DataTime());
    plan.seen.until = time + 1;
    SAVIOR_ASSIGN_OR_RETURN(
        snapshot, TakeSnapshot(*world_.inputs->log, *world_.config, plan, job_->group->size(),
                               world_.trainer->dense().Save(), world_.store->store()));
    said = absl::StrCat(plan.seen.until);
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          world_.place->workers().Allgather(said, DeadlineIn(kPatience)));
  if (!absl::SimpleAtoi(all[0], &plan.seen.until)) {
    return absl::DataLossError("the lead's plan of a refresh does not decode");
  }
  const RefreshWorker worker{.log = world_.inputs->log.get(),
                             .config = world_.config,
                             .store = &world_.store->background(),
                             .group = job_->group.get(),
                             .codebook = lead() ? world_.content->codebook.get() : nullptr,
                             .encoder = lead() ? world_.content->encoder.get() : nullptr,
                             .step = &job_->step};
  job_->thread = std::thread([job = job_.get(), worker, snapshot = std::move(snapshot)] {
    job->result = RunRefreshJob(worker, job->plan, snapshot, &job->give_up);
    job->done = true;
  });
  Event("BUILDING", {{"why", why_},
                     {"data_until", plan.seen.until},
                     {"stood_still_ms", 1e3 * SecondsSince(start)}});
  return absl::OkStatus();
}

std::string RunRefresh::Report() const {
  if (!job_->done) return kBusy;
  if (!job_->result.ok()) return std::string(job_->result.status().message());
  return std::string(job_->result->verdict.message());
}

absl::StatusOr<bool> RunRefresh::Judge() {
  while (true) {
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> reports,
                            world_.place->workers().Allgather(Report(), DeadlineIn(kPatience)));
    bool busy = false;
    for (size_t w = 0; w < reports.size(); ++w) {
      if (reports[w] == kBusy) {
        busy = true;
      } else if (!reports[w].empty()) {
        verdict_ = reports[w];
        return false;
      }
    }
    if (!busy) return true;
    std::this_thread::sleep_for(kAskAgain);
  }
}

// T. Pushes are in before the rows are carried over, and none comes before all have switched.
absl::Status RunRefresh::Switch() {
  const auto start = SteadyClock::now();
  EndJob();
  RefreshResult& result = *job_->result;
  SAVIOR_RETURN_IF_ERROR(world_.trainer->Settle());
  SAVIOR_RETURN_IF_ERROR(world_.trainer->UseCodebook(version_, job_->plan.build));
  SAVIOR_FAILPOINT("refresh.before_switch");
  SAVIOR_ASSIGN_OR_RETURN(const int64_t prefixes_again, CarryPrefixes(result));
  const int64_t step = world_.trainer->step();
  if (lead()) {
    SAVIOR_RETURN_IF_ERROR(
        CarryOver(result, *world_.config, version_, step, world_.store->store()));
    SAVIOR_FAILPOINT("refresh.carried");
    SAVIOR_RETURN_IF_ERROR(world_.store->SwitchCodebook(
        version_, DeadlineIn(Milliseconds(world_.config->ps.timeout_s))));
    SAVIOR_FAILPOINT("refresh.shards_switched");
  }
  SAVIOR_RETURN_IF_ERROR(
      world_.place->workers().Allgather("switched", DeadlineIn(kPatience)).status());
  if (!lead()) world_.store->UseCodebook(version_);
  CodebookState& state = *world_.state;
  state = {.version = version_,
           .since_step = step,
           .previous = version_ - 1,
           .probation = world_.config->refresh.probation_steps > 0,
           .encoder = state.encoder + (result.encoder ? 1 : 0),
           .previous_encoder = state.encoder,
           .builds = state.builds,
           .build = job_->plan.build,
           .previous_build = state.build};
  if (flow_.state() != RefreshState::kProbation && state.probation) flow_.StartInProbation(step);
  Json figures = lead() ? FiguresOf(result.figures) : Json::object();
  if (lead()) {
    Keep(&result);
  }
  if (lead() && HasPrefixes()) figures["prefixes"]["again"] = prefixes_again;
  job_.reset();
  monitor_.reset();
  drifted_.clear();
  figures["stood_still_ms"] = 1e3 * SecondsSince(start);
  Event("ACTIVE", std::move(figures));
  return absl::OkStatus();
}

// All pushes are in when it begins, and all rows of prefixes are carried over at all workers when
// it ends. How many they were.
absl::StatusOr<int64_t> RunRefresh::CarryPrefixes(const RefreshResult& result) {
  const std::vector<uint64_t> pushed = world_.trainer->PrefixesPushedSince(result.prefixes_since);
  world_.trainer->NotePrefixes(false);
  const std::string_view mine(reinterpret_cast<const char*>(pushed.data()),
                              pushed.size() * sizeof(uint64_t));
  Group& workers = world_.place->workers();
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          workers.Allgather(mine, DeadlineIn(kPatience)));
  if (!HasPrefixes()) return 0;
  std::vector<uint64_t> changed;
  for (const std::string& theirs : all) {
    const size_t begin = changed.size();
    changed.resize(begin + theirs.size() / sizeof(uint64_t));
    std::memcpy(changed.data() + begin, theirs.data(), (changed.size() - begin) * sizeof(uint64_t));
  }
  SAVIOR_ASSIGN_OR_RETURN(const size_t again, CarryPrefixesOver(result, *world_.config, job_->plan,
                                                                changed, world_.store->store()));
  // Shards refuse what is of the former version from the moment on that the lead switches them.
  auto of_all = static_cast<double>(again);
  SAVIOR_RETURN_IF_ERROR(SumOverGroup(&workers, {&of_all, 1}, DeadlineIn(kPatience)));
  return static_cast<int64_t>(of_all);
}

// What is in use now, for the commits to come, and what was, while it may come back.
void RunRefresh::Keep(RefreshResult* result) {
  Content& content = *world_.content;
  RunCommits& commits = *world_.commits;
  const bool probation = world_.state->probation;
  if (probation) commits.SetConstant(kPreviousCodebookFile, SaveCodebook(content));
  content.codebook = std::move(result->codebook);
  content.learnt_until = job_->plan.seen.until;
  commits.SetConstant(kCodebookFile, SaveCodebook(content));
  if (!result->encoder) return;
  if (probation) commits.SetConstant(kPreviousEncoderFile, content.encoder->Save());
  content.encoder = std::move(result->encoder);
  commits.SetConstant(kEncoderFile, content.encoder->Save());
}

void RunRefresh::EndJob() {
  if (job_->thread.joinable()) job_->thread.join();
}

void RunRefresh::Abort(const std::string& why) {
  Json figures = {{"why", why}};
  job_->give_up = true;
  EndJob();
  if (lead() && job_->result.ok()) figures.update(FiguresOf(job_->result->figures));
  Event("ABORTED", std::move(figures));
  job_.reset();
  // Not again at once: drift is looked at when the next day ends.
  given_up_ = true;
  drifted_.clear();
  world_.trainer->NotePrefixes(false);
  if (!lead()) return;
  LOG(ERROR) << "the codebook stays at version " << world_.state->version << ": " << why;
  if (request_ && request_->what == RefreshRequest::What::kRefresh) {
    const absl::Status removed = RemoveRefreshRequest(world_.run);
    LOG_IF(ERROR, !removed.ok()) << removed.message();
    request_.reset();
  }
}

void RunRefresh::Retire() {
  world_.state->probation = false;
  world_.state->previous_encoder = world_.state->encoder;
  if (lead()) {
    world_.commits->DropConstant(kPreviousCodebookFile);
    world_.commits->DropConstant(kPreviousEncoderFile);
  }
  Event("RETIRED");
}

void RunRefresh::AnswerRequest(int64_t committed) {
  const RefreshRequest* const request = Request();
  if (request == nullptr) return;
  const CodebookState& state = *world_.state;
  std::string answer;
  if (request->what == RefreshRequest::What::kRefresh) {
    if (request->version > state.version) {
      const absl::Status can = CanBuild();
      if (can.ok()) return;  // its turn comes
      answer = std::string(can.message());
    } else if (committed < state.since_step) {
      return;  // until the switch is durable
    }
  } else if (request->version >= state.version) {
    answer = fmt::format("codebook version {} is in use already", state.version);
  } else if (!state.probation) {
    answer = fmt::format(
        "codebook version {} cannot be rolled back: its probation (refresh.probation_steps) is "
        "over",
        state.version);
  } else {
    return;  // RollbackAsked
  }
  LOG_IF(ERROR, !answer.empty()) << answer;
  if (!answer.empty()) Event("REFUSED", {{"why", answer}});
  const absl::Status removed = RemoveRefreshRequest(world_.run);
  LOG_IF(ERROR, !removed.ok()) << removed.message();
  request_.reset();
}

fs::path RunRefresh::pinned() const {
  if (!world_.state->probation) return {};
  return CommitFolder(world_.run / "commits", world_.state->since_step);
}

Json RunRefresh::ToJson() const {
  constexpr const char* kNames[] = {"IDLE", "BUILDING", "PREPARED", "PROBATION"};
  Json json = {{"version", world_.state->version},
               {"since_step", world_.state->since_step},
               {"state", kNames[static_cast<int>(flow_.state())]}};
  if (monitor_ == nullptr) return json;
  const DriftFigures drift = monitor_->Figures();
  json["drift"] = {{"old_contents", drift.old_contents},
                   {"new_contents", drift.new_contents},
                   {"rq_mse_ratio", drift.rq_mse_ratio()},
                   {"perplexity", drift.perplexity},
                   {"perplexity_drop", drift.perplexity_drop()},
                   {"new_code_share", drift.new_code_share},
                   {"beyond", drifted_}};
  return json;
}

void RunRefresh::Event(const char* state, Json figures) {
  if (!lead()) return;
  const uint32_t version = job_ ? version_ : world_.state->version;
  Json line = {{"step", world_.trainer->step()},
               {"state", state},
               {"version", version},
               {"time", absl::ToUnixSeconds(absl::Now())}};
  line.update(figures);
  LOG(INFO) << "codebook version " << version << ": " << state << " " << figures.dump();
  const absl::Status added = world_.events->Add(line);
  LOG_IF(WARNING, !added.ok()) << "a line of refresh.jsonl is lost: " << added.message();
}

}  // namespace savior
