#include "launcher/training_run.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/process.h"
#include "common/progress.h"
#include "common/tensor_file.h"
#include "launcher/commit.h"
#include "launcher/refresh_rollback.h"
#include "worker/device.h"
#include "worker/eval/prediction_share.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

}  // namespace

absl::StatusOr<EvalResult> TrainingRun::Run() {
  UseThreads(config_);
  absl::StatusOr<EvalResult> result = Work();
  // While the run's log is open: whoever looks there later should find why it ended.
  if (!result.ok() && !absl::IsCancelled(result.status()) && !absl::IsAborted(result.status()) &&
      folder_ != nullptr) {
    LOG(ERROR) << result.status().message();
  }
  return result;
}

absl::StatusOr<EvalResult> TrainingRun::Work() {
  SAVIOR_RETURN_IF_ERROR(Open());
  if (options_.refresh_now) return RefreshNow();
  SAVIOR_RETURN_IF_ERROR(TrainLoop());
  SAVIOR_RETURN_IF_ERROR(SettleCommit());
  if (rolling_back_) return RollBack();
  if (trainer_->step() != committed_step_) {
    SAVIOR_RETURN_IF_ERROR(BeginCommit());
    SAVIOR_RETURN_IF_ERROR(SettleCommit());
    SAVIOR_RETURN_IF_ERROR(not_committed_);
  }
  if (stopped_ && trainer_->step() < trainer_->total_steps()) {
    return absl::CancelledError(fmt::format(
        "stopped after step {} of {}; committed to {}. Go on with: savior train {} "
        "--resume",
        trainer_->step(), trainer_->total_steps(), (fs::path(config_.run.dir) / "commits").string(),
        (fs::path(config_.run.dir) / kResolvedFile).string()));
  }
  SAVIOR_ASSIGN_OR_RETURN(EvalResult result, Finish());
  SAVIOR_RETURN_IF_ERROR(PublishLast());
  return result;
}

absl::Status TrainingRun::Open() {
  // Before hours of preparing; the trainer picks it again.
  SAVIOR_RETURN_IF_ERROR(PickDevice(place_.device(), place_.local_worker()).status());
  if (lead()) {
    SAVIOR_ASSIGN_OR_RETURN(inputs_, RunInputs::Open(config_));
    SAVIOR_RETURN_IF_ERROR(inputs_.CheckPeriods());
    SAVIOR_ASSIGN_OR_RETURN(const RunStart start, OpenFolder());
    SAVIOR_ASSIGN_OR_RETURN(start_, place_.Agree(start));
  } else {
    SAVIOR_ASSIGN_OR_RETURN(start_, place_.Agree(std::nullopt));
    SAVIOR_ASSIGN_OR_RETURN(inputs_, RunInputs::Open(config_));
  }
  SAVIOR_RETURN_IF_ERROR(CheckSame("the training data (fingerprint)", inputs_.log->fingerprint()));
  return OpenTables();
}

absl::StatusOr<RunStart> TrainingRun::OpenFolder() {
  SAVIOR_ASSIGN_OR_RETURN(folder_, RunFolder::Open(config_, options_.resume));
  LOG(INFO) << "run " << folder_->path().string() << ", arm " << config_.model.arm << ", seed "
            << config_.seed;
  if (!folder_->resumed()) return StartAfresh();
  SAVIOR_RETURN_IF_ERROR(FinishRollback());
  const absl::StatusOr<Commit> commit = NewestCommit(folder_->commits());
  if (!commit.ok()) {
    // Without any commit nothing can be lost by starting again; a damaged one is for a person to
    // decide on.
    if (!absl::IsNotFound(commit.status())) return commit.status();
    LOG(WARNING) << "the run was stopped before its first commit: starting from the beginning";
    SAVIOR_RETURN_IF_ERROR(folder_->SetConfiguration(config_));
    return StartAfresh();
  }
  return GoOn(*commit);
}

absl::StatusOr<RunStart> TrainingRun::StartAfresh() {
  trained_until_ = {inputs_.periods.training.until};
  SAVIOR_ASSIGN_OR_RETURN(log_.proof, ProveLog(*inputs_.log, inputs_.periods.training));
  return RunStart{};
}

absl::StatusOr<RunStart> TrainingRun::GoOn(const Commit& commit) {
  const CommitManifest& manifest = commit.manifest;
  // Every byte has just been read: what the next commits link of these files is not read again.
  for (const SealedFile& file : manifest.files) {
    digests_.Add(commit.folder / file.path, file.xxh3);
  }
  LOG(INFO) << "going on from " << commit.folder.string() << ", step " << manifest.step;
  const Period training = inputs_.periods.training;
  SAVIOR_ASSIGN_OR_RETURN(trained_until_, TrainedUntil(commit, config_, training));
  SAVIOR_ASSIGN_OR_RETURN(log_, CompareLogs(commit, config_, *inputs_.log, training));
  SAVIOR_RETURN_IF_ERROR(folder_->SetConfiguration(config_));
  restored_ = commit;
  codebook_ = manifest.codebook;
  return RunStart{commit.folder, manifest.step, manifest.samples, manifest.codebook,
                  SegmentsOf(training, trained_until_).cuts};
}

absl::Status TrainingRun::OpenTables() {
  const bool afresh = start_.restore_from.empty();
  if (lead() && afresh) {
    SAVIOR_ASSIGN_OR_RETURN(content_,
                            TrainContent(*inputs_.log, config_, inputs_.periods.training));
  }
  SAVIOR_ASSIGN_OR_RETURN(store_, place_.OpenStore(start_));
  // Only here: what the run's folder keeps is the configuration as it was given.
  Config agreed = config_;
  agreed.cluster.device = place_.device();
  Segments training(inputs_.periods.training);
  training.cuts = start_.cuts;
  SAVIOR_ASSIGN_OR_RETURN(trainer_,
                          Trainer::Create(agreed, inputs_.log.get(), &store_->store(), training,
                                          &place_.allreduce(), place_.local_worker()));
  if (afresh) {
    if (lead()) {
      SAVIOR_RETURN_IF_ERROR(PublishContent(*inputs_.log, content_, config_, store_->store()));
    }
  } else {
    SAVIOR_RETURN_IF_ERROR(Restore());
  }
  if (lead()) SAVIOR_RETURN_IF_ERROR(OpenCommits());
  SAVIOR_RETURN_IF_ERROR(OpenRefresh());
  // Nobody goes on before the lead has published the content.
  return CheckSame("initial dense weights", absl::StrCat(absl::Hex(trainer_->Digest())));
}

absl::Status TrainingRun::Restore() {
  codebook_ = start_.codebook;
  SAVIOR_RETURN_IF_ERROR(LoadDense(start_.restore_from, trainer_.get()));
  SAVIOR_RETURN_IF_ERROR(trainer_->Seek(start_.step));
  SAVIOR_RETURN_IF_ERROR(trainer_->UseCodebook(codebook_.version, codebook_.build));
  samples_ = start_.samples;
  committed_step_ = start_.step;
  if (!lead()) return absl::OkStatus();
  const Period first = {inputs_.periods.training.from, trained_until_.front()};
  SAVIOR_ASSIGN_OR_RETURN(const Period learnt, LearningPeriod(config_, first));
  SAVIOR_ASSIGN_OR_RETURN(content_, ContentOf(*restored_, learnt.until));
  // Items that the commit does not know can be ranked in the next step.
  return AddContents(*restored_, config_, *inputs_.log, content_, log_.new_contents,
                     KeysOf(*inputs_.log, log_.new_contents), store_->store());
}

absl::Status TrainingRun::OpenCommits() {
  std::vector<std::pair<std::string, CommitFile>> constant;
  constant.emplace_back(kLogProofFile, EncodeProof(std::exchange(log_.proof, {})));
  if (content_.encoder) constant.emplace_back(kEncoderFile, content_.encoder->Save());
  if (content_.codebook) constant.emplace_back(kCodebookFile, SaveCodebook(content_));
  if (codebook_.probation) {
    std::vector<const char*> kept = {kPreviousCodebookFile};
    if (KeepsFormerEncoder(codebook_)) kept.push_back(kPreviousEncoderFile);
    for (const char* name : kept) {
      SAVIOR_ASSIGN_OR_RETURN(TensorFile previous, ReadTensorFile(start_.restore_from / name));
      constant.emplace_back(name, std::move(previous));
    }
  }
  // What was rolled back from is no part of the commits to come.
  codebook_.previous = std::min(codebook_.previous, codebook_.version);
  codebook_.previous_encoder = std::min(codebook_.previous_encoder, codebook_.encoder);
  commits_ = std::make_unique<RunCommits>(folder_->commits(), store_.get(), &digests_,
                                          std::move(constant));
  return absl::OkStatus();
}

std::vector<fs::path> TrainingRun::PinnedCommits() const {
  std::vector<fs::path> pinned;
  if (publisher_ && !publisher_->in_use().empty()) pinned.push_back(publisher_->in_use());
  if (codebook_.probation) {
    pinned.push_back(CommitFolder(folder_->commits(), codebook_.since_step));
  }
  return pinned;
}

absl::Status TrainingRun::CheckSame(const std::string& what, const std::string& mine) {
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          place_.workers().Allgather(mine, DeadlineIn(kPatience)));
  for (size_t w = 1; w < all.size(); ++w) {
    if (all[w] == all[0]) continue;
    return absl::FailedPreconditionError(
        fmt::format("workers 0 and {} differ in {}: {} | {}", w, what, all[0], all[w]));
  }
  return absl::OkStatus();
}

absl::Status TrainingRun::TrainLoop() {
  LOG(INFO) << "computing on " << trainer_->device().str();
  if (options_.before_first_step) options_.before_first_step();
  train_start_ = last_metrics_ = SteadyClock::now();
  train_cpu_start_ = last_cpu_ = ProcessCpuSeconds();
  commit_due_ = DeadlineIn(Milliseconds(config_.commit.interval_s));
  if (lead()) {
    SAVIOR_ASSIGN_OR_RETURN(server_cpu_start_, ServerCpuSeconds());
    last_server_cpu_ = server_cpu_start_;
    if (!config_.exports.dir.empty()) {
      publisher_ = std::make_unique<Publisher>(
          PublisherOptions{folder_->path(), config_.exports, options_.program}, SteadyClock::now());
    }
  }
  samples_start_ = last_samples_ = samples_;
  const int64_t first_step = trainer_->step();
  std::optional<Progress> progress;  // one for all workers
  if (lead()) {
    progress.emplace("training", trainer_->total_steps(), "steps", absl::Seconds(15), first_step);
  }
  while (trainer_->step() < trainer_->total_steps() && !stopped_) {
    const auto begin = SteadyClock::now();
    SAVIOR_ASSIGN_OR_RETURN(const StepFigures figures, trainer_->Step(Wishes()));
    const double step_s = SecondsSince(begin);
    step_times_.Add(figures.seconds, step_s);
    last_step_times_.Add(figures.seconds, step_s);
    if (options_.after_step) options_.after_step(trainer_->step() - 1, figures);
    rolling_back_ = figures.wishes.roll_back;
    stopped_ = figures.wishes.stop || rolling_back_;
    samples_ += figures.rows;
    const double keep = trainer_->step() == first_step + 1 ? 0.0 : 0.99;
    mean_.ctr = keep * mean_.ctr + (1 - keep) * figures.losses.ctr;
    mean_.ctcvr = keep * mean_.ctcvr + (1 - keep) * figures.losses.ctcvr;
    if (progress) {
      const double seconds = SecondsSince(train_start_);
      progress->Update(trainer_->step(),
                       fmt::format("loss {:.4f} {:.4f}, {:.0f} samples/s", mean_.ctr, mean_.ctcvr,
                                   static_cast<double>(samples_ - samples_start_) / seconds));
    }
    SAVIOR_RETURN_IF_ERROR(AfterStep(figures));
  }
  train_wall_s_ = SecondsSince(train_start_);
  SAVIOR_RETURN_IF_ERROR(GatherCosts());
  if (progress) progress->Finish(fmt::format("loss {:.4f} {:.4f}", mean_.ctr, mean_.ctcvr));
  return absl::OkStatus();
}

absl::Status TrainingRun::AfterStep(const StepFigures& figures) {
  const int64_t step = trainer_->step();
  const auto due = [step](int64_t every) { return every > 0 && step % every == 0; };
  if (place_.workers().size() > 1 && due(config_.cluster.digest_every_steps)) {
    SAVIOR_RETURN_IF_ERROR(CheckSame(fmt::format("dense weights after step {}", step),
                                     absl::StrCat(absl::Hex(trainer_->Digest()))));
  }
  if (lead() && SecondsSince(last_metrics_) >= config_.train.metrics_every_s) {
    SAVIOR_RETURN_IF_ERROR(WriteMetrics(figures));
  }
  if (lead()) SAVIOR_RETURN_IF_ERROR(TakeCommit(/*wait=*/false));
  // The last one is the run's end's.
  const bool more = step < trainer_->total_steps() && !stopped_;
  SAVIOR_ASSIGN_OR_RETURN(const bool switched, refresh_->AfterStep(figures, committed_step_));
  if (more && (switched || due(config_.commit.every_steps) || figures.wishes.commit)) {
    SAVIOR_RETURN_IF_ERROR(BeginCommit());
  }
  // The last commit is exported when the run's result is there, too.
  if (publisher_ && more) {
    publisher_->AfterStep(SteadyClock::now(), step, committed_step_, begun_step_);
  }
  return absl::OkStatus();
}

StepWishes TrainingRun::Wishes() const {
  const bool free = commits_ != nullptr && !commits_->under_way();
  const bool by_clock = free && config_.commit.interval_s > 0 && SteadyClock::now() >= commit_due_;
  StepWishes wishes{.stop = StopAsked(),
                    .commit = by_clock || (free && publisher_ && publisher_->wants_commit())};
  refresh_->AddWishes(commits_ != nullptr && commits_->under_way(), &wishes);
  return wishes;
}

absl::Status TrainingRun::BeginCommit() {
  const auto start = SteadyClock::now();
  SAVIOR_RETURN_IF_ERROR(trainer_->Settle());
  // Every worker's pushes are in when all are here, and none comes before the shards have frozen.
  SAVIOR_RETURN_IF_ERROR(SettleCommit());
  absl::Status mine;
  if (lead()) {
    mine = commits_->Begin(ContentsOfCommit());
    commit_due_ = DeadlineIn(Milliseconds(config_.commit.interval_s));
    if (!mine.ok() && !absl::IsResourceExhausted(mine)) return mine;
  }
  // What became of it, this too, the next SettleCommit says.
  begun_step_ = trainer_->step();
  SAVIOR_RETURN_IF_ERROR(place_.workers().Allgather("frozen", DeadlineIn(kPatience)).status());
  ++last_commits_;
  last_commit_pause_s_ = std::max(last_commit_pause_s_, SecondsSince(start));
  return absl::OkStatus();
}

absl::Status TrainingRun::SettleCommit() {
  if (lead()) SAVIOR_RETURN_IF_ERROR(TakeCommit(/*wait=*/true));
  SAVIOR_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      place_.workers().Allgather(std::string(not_committed_.message()), DeadlineIn(kPatience)));
  // The lead's word: what all do next depends on it.
  not_committed_ = all[0].empty() ? absl::OkStatus() : absl::ResourceExhaustedError(all[0]);
  if (begun_step_ >= 0 && not_committed_.ok()) committed_step_ = begun_step_;
  begun_step_ = -1;
  return absl::OkStatus();
}

absl::Status TrainingRun::TakeCommit(bool wait) {
  const std::optional<CommitOutcome> outcome = commits_->Take(wait);
  if (wait) commits_->Wait();  // for old commits to go, too
  if (!outcome) return absl::OkStatus();
  if (!outcome->status.ok() && !absl::IsResourceExhausted(outcome->status)) return outcome->status;
  not_committed_ = outcome->status;
  if (!outcome->status.ok()) {
    NotCommitted(outcome->step, outcome->status);
    return absl::OkStatus();
  }
  committed_step_ = outcome->step;
  commits_->Prune(config_.commit.keep, PinnedCommits());
  if (wait) commits_->Wait();
  return absl::OkStatus();
}

void TrainingRun::NotCommitted(int64_t step, const absl::Status& why) {
  LOG(ERROR) << fmt::format(
      "no commit at step {}: {}. Training goes on, and tries again at the next commit; the last "
      "one {}. Make room where {} is",
      step, std::string(why.message()),
      committed_step_ < 0 ? "does not exist yet" : fmt::format("is of step {}", committed_step_),
      folder_->commits().string());
  if (publisher_) publisher_->NotCommitted(SteadyClock::now());
}

CommitContents TrainingRun::ContentsOfCommit() {
  CommitContents contents;
  contents.manifest.step = trainer_->step();
  contents.manifest.samples = samples_;
  contents.manifest.log_fingerprint = inputs_.log->fingerprint();
  contents.manifest.trained_until = trained_until_;
  contents.manifest.shards = store_->shards();
  contents.manifest.tables = store_->store().tables();
  contents.manifest.codebook = codebook_;
  contents.dense = trainer_->dense().Save();
  contents.resolved = ToToml(config_);
  return contents;
}

absl::Status TrainingRun::OpenRefresh() {
  RefreshWorld world{.config = &config_,
                     .inputs = &inputs_,
                     .place = &place_,
                     .store = store_.get(),
                     .trainer = trainer_.get(),
                     .state = &codebook_};
  if (lead()) {
    world.content = &content_;
    world.commits = commits_.get();
    world.events = &folder_->refreshes();
    world.run = folder_->path();
  }
  refresh_ = std::make_unique<RunRefresh>(world);
  return absl::OkStatus();
}

absl::StatusOr<EvalResult> TrainingRun::RefreshNow() {
  if (options_.before_first_step) options_.before_first_step();
  std::string why;
  SAVIOR_ASSIGN_OR_RETURN(const bool switched, refresh_->Now(&why));
  if (!switched) {
    return absl::FailedPreconditionError(fmt::format("{}: the codebook stays at version {}: {}",
                                                     config_.run.dir, codebook_.version, why));
  }
  SAVIOR_RETURN_IF_ERROR(BeginCommit());
  SAVIOR_RETURN_IF_ERROR(SettleCommit());
  SAVIOR_RETURN_IF_ERROR(not_committed_);
  if (lead()) {
    out_ << fmt::format("{}: codebook version {} from step {} on; figures in {}\n", config_.run.dir,
                        codebook_.version, codebook_.since_step,
                        (folder_->path() / kRefreshFile).string());
  }
  return EvalResult{};
}

absl::Status TrainingRun::RollBack() {
  const CodebookState from = codebook_;
  if (lead()) {
    commits_->Wait();
    SAVIOR_RETURN_IF_ERROR(FinishRollback());
  }
  SAVIOR_RETURN_IF_ERROR(place_.workers().Allgather("rolled back", DeadlineIn(kPatience)).status());
  return absl::AbortedError(fmt::format(
      "the codebook is back at version {}, at step {}, as asked; the run starts again "
      "from there: savior train {} --resume",
      from.previous, from.since_step, (fs::path(config_.run.dir) / kResolvedFile).string()));
}

absl::Status TrainingRun::FinishRollback() {
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<RefreshRequest> asked,
                          ReadRefreshRequest(folder_->path()));
  if (!asked || asked->what != RefreshRequest::What::kRollback) return absl::OkStatus();
  // Over the data as it is now.
  absl::Status done = RollBackCodebook(folder_->path(), asked->version, [this](const Commit& at) {
    return CheckGoesOn(at, config_, inputs_);
  });
  // One that cannot be done does not keep the run from going on; a damaged commit does.
  if (!done.ok() && !absl::IsFailedPrecondition(done)) return done;
  LOG_IF(ERROR, !done.ok()) << done.message();
  Json event = {{"state", "REFUSED"},
                {"version", asked->version},
                {"time", absl::ToUnixSeconds(absl::Now())},
                {"why", std::string(done.message())}};
  if (done.ok()) {
    SAVIOR_ASSIGN_OR_RETURN(const Commit back, NewestCommit(folder_->commits()));
    event = RollbackEvent(asked->version, back.manifest.step);
  }
  const absl::Status added = folder_->refreshes().Add(event);
  LOG_IF(WARNING, !added.ok()) << added.message();
  return RemoveRefreshRequest(folder_->path());
}

}  // namespace savior
