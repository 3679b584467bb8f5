// What a training run says of itself: metrics, costs, scores, the result.
#include <absl/strings/str_cat.h>
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/process.h"
#include "launcher/commit.h"
#include "launcher/training_run.h"
#include "worker/eval/prediction_share.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Deadline StatsDeadline() { return DeadlineIn(std::chrono::seconds(10)); }

}  // namespace

absl::StatusOr<Scores> Score(const RunInputs& inputs, Group* workers, Trainer* trainer) {
  PredictionShare mine;
  if (trainer->progressive()) {
    mine = trainer->TakeProgressive();
  } else {
    SAVIOR_ASSIGN_OR_RETURN(
        mine, trainer->PredictShare(inputs.periods.evaluation, workers->rank(), workers->size()));
  }
  Scores scores;
  if (workers->size() == 1) {
    scores.predictions = std::move(mine.predictions);
  } else {
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            workers->Allgather(EncodeShare(mine), DeadlineIn(kPatience)));
    if (workers->rank() != 0) return Scores{};
    std::vector<PredictionShare> shares;
    for (const std::string& bytes : all) {
      SAVIOR_ASSIGN_OR_RETURN(shares.emplace_back(), DecodeShare(bytes));
    }
    SAVIOR_ASSIGN_OR_RETURN(scores.predictions, MergeShares(shares));
  }
  SAVIOR_ASSIGN_OR_RETURN(scores.facts, ScanTraining(*inputs.log, inputs.periods.training));
  SAVIOR_ASSIGN_OR_RETURN(scores.result,
                          Evaluate(*inputs.log, scores.predictions, inputs.buckets, scores.facts));
  return scores;
}

absl::StatusOr<double> TrainingRun::ServerCpuSeconds() {
  SAVIOR_ASSIGN_OR_RETURN(const StoreStats stats, store_->store().Stats(StatsDeadline()));
  return 1e-6 * static_cast<double>(stats.steps.server_cpu_us);
}

absl::Status TrainingRun::GatherCosts() {
  const Json mine = {{"cpu_s", ProcessCpuSeconds() - train_cpu_start_},
                     {"step_seconds", step_times_.ToJson()}};
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          place_.workers().Allgather(mine.dump(), DeadlineIn(kPatience)));
  if (!lead()) return absl::OkStatus();
  SAVIOR_ASSIGN_OR_RETURN(double servers, ServerCpuSeconds());
  servers -= server_cpu_start_;
  train_cpu_s_ = servers;
  Json workers = Json::array();
  for (const std::string& bytes : all) {
    Json worker = Json::parse(bytes, nullptr, /*allow_exceptions=*/false);
    if (!worker.is_object() || !worker.contains("cpu_s") || !worker["cpu_s"].is_number()) {
      return absl::DataLossError("a worker's costs do not decode");
    }
    train_cpu_s_ += worker["cpu_s"].get<double>();
    workers.push_back(std::move(worker));
  }
  processes_ = {{"workers", std::move(workers)}, {"servers_cpu_s", servers}};
  return absl::OkStatus();
}

absl::Status TrainingRun::WriteMetrics(const StepFigures& figures) {
  const double cpu = ProcessCpuSeconds();
  const auto samples = static_cast<double>(samples_ - last_samples_);
  SAVIOR_ASSIGN_OR_RETURN(const StoreStats stats, store_->store().Stats(StatsDeadline()));
  const double server_cpu = 1e-6 * static_cast<double>(stats.steps.server_cpu_us);
  // The others' is known at the end only: as if all had used as much.
  const double all_cpu =
      (cpu - last_cpu_) * place_.workers().size() + server_cpu - last_server_cpu_;
  const auto hit_rate = [](uint64_t hits, uint64_t pulled) {
    return pulled == 0 ? 1.0 : static_cast<double>(hits) / static_cast<double>(pulled);
  };
  uint64_t pulled = 0, hits = 0;
  Json by_table = Json::object();
  for (const TableStats& t : stats.tables) {
    pulled += t.pulled - t.missing;
    hits += t.hot_hits;
    by_table[t.name] = {
        {"rows", t.rows},           {"hot_rows", t.hot_rows},
        {"hot_bytes", t.hot_bytes}, {"hot_hit_rate", hit_rate(t.hot_hits, t.pulled - t.missing)},
        {"hinted", t.hinted},       {"written_back", t.written_back},
        {"admitted", t.admitted},   {"refused", t.refused},
        {"evicted", t.evicted},     {"skipped", t.skipped}};
  }
  Json line = {{"step", trainer_->step()},
               {"samples", samples_},
               {"time", absl::ToUnixSeconds(absl::Now())},
               {"loss_ctr", mean_.ctr},
               {"loss_ctcvr", mean_.ctcvr},
               {"samples_per_s", samples / SecondsSince(last_metrics_)},
               {"samples_per_cpu_s", samples / all_cpu},
               {"rows_pulled", figures.rows_pulled},
               {"hot_hit_rate", hit_rate(hits, pulled)},
               {"tables", by_table},
               {"pulls_held", stats.steps.pulls_held},
               {"max_staleness", stats.steps.max_staleness},
               {"repeated", stats.steps.repeated},
               {"net_bytes",
                {{"store_sent", stats.network.bytes_sent},
                 {"store_received", stats.network.bytes_received},
                 {"allreduce_sent", place_.allreduce().bytes_sent()}}},
               {"rss_bytes", RssBytes()},
               {"codebook", refresh_->ToJson()},
               {"step_seconds", last_step_times_.ToJson()}};
  if (publisher_) {
    line["bundles"] = {{"published", publisher_->published()}, {"failed", publisher_->failed()}};
  }
  if (last_commits_ > 0) {
    line["commits"] = {{"begun", last_commits_}, {"stood_still_ms", 1e3 * last_commit_pause_s_}};
  }
  if (trainer_->progressive()) {
    SAVIOR_ASSIGN_OR_RETURN(line["progressive"], ProgressiveFigures());
  }
  last_commits_ = 0;
  last_commit_pause_s_ = 0;
  last_metrics_ = SteadyClock::now();
  last_cpu_ = cpu;
  last_server_cpu_ = server_cpu;
  last_step_times_ = {};
  last_samples_ = samples_;
  // A full disk ends no training (BeginCommit).
  const absl::Status added = folder_->metrics().Add(line);
  LOG_IF(WARNING, !added.ok()) << "a line of metrics is lost: " << added.message();
  return absl::OkStatus();
}

absl::StatusOr<Json> TrainingRun::ProgressiveFigures() {
  if (!facts_) {
    SAVIOR_ASSIGN_OR_RETURN(facts_, ScanTraining(*inputs_.log, inputs_.periods.training));
  }
  const Predictions& all = trainer_->scored_so_far();
  const Predictions fresh = all.From(last_scored_);
  last_scored_ = all.rows();
  SAVIOR_ASSIGN_OR_RETURN(const EvalResult result,
                          Evaluate(*inputs_.log, fresh, inputs_.buckets, *facts_));
  Json buckets = Json::object();
  for (const auto& [name, cell] : result.ctr) {
    if (cell.n == 0) continue;
    Json& figures = buckets[name] = {{"n", cell.n}, {"logloss", *cell.logloss}};
    if (cell.auc) figures["auc"] = *cell.auc;
  }
  return buckets;
}

absl::StatusOr<EvalResult> TrainingRun::Finish() {
  if (lead()) {
    LOG(INFO) << "evaluating " << config_.data.eval_from << " to " << config_.data.eval_until;
  }
  SAVIOR_ASSIGN_OR_RETURN(Scores scores, Score(inputs_, &place_.workers(), trainer_.get()));
  if (lead()) SAVIOR_RETURN_IF_ERROR(WriteResult(scores));
  return std::move(scores.result);
}

absl::Status TrainingRun::WriteResult(const Scores& scores) {
  if (config_.eval.save_predictions) {
    SAVIOR_RETURN_IF_ERROR(SavePredictions(folder_->predictions(), *inputs_.log, scores.predictions,
                                           inputs_.buckets, scores.facts));
  }
  PrintTable(scores.result, out_);
  const auto trained = static_cast<double>(samples_ - samples_start_);
  const Json json = {{"dataset", fs::path(config_.data.raw).lexically_normal().filename().string()},
                     {"arm", config_.model.arm},
                     {"seed", config_.seed},
                     {"steps", trainer_->step()},
                     {"eval", ToJson(scores.result)},
                     {"train",
                      {{"samples", samples_},
                       {"wall_s", train_wall_s_},
                       {"cpu_s", train_cpu_s_},
                       {"samples_per_cpu_s", train_cpu_s_ > 0 ? trained / train_cpu_s_ : 0.0},
                       {"peak_rss_bytes", PeakRssBytes()},
                       {"processes", processes_}}}};
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder_->result(), json.dump(2) + "\n"));
  out_ << fmt::format("\n{} impressions in {:.0f} s ({:.0f} per CPU-second), result in {}\n",
                      samples_ - samples_start_, train_wall_s_,
                      train_cpu_s_ > 0 ? trained / train_cpu_s_ : 0.0, folder_->result().string());
  return absl::OkStatus();
}

absl::Status TrainingRun::PublishLast() {
  if (config_.exports.dir.empty()) return absl::OkStatus();
  if (publisher_) {
    publisher_->Finish(committed_step_, [this] { return StopAsked(); });
    publisher_.reset();
    // What was kept for a child, too.
    SAVIOR_RETURN_IF_ERROR(KeepNewest(folder_->commits(), config_.commit.keep, PinnedCommits()));
  }
  // Who left before the lead would be waited for by nobody, and then end the job (MpiWorld).
  return place_.workers().Allgather("published", DeadlineIn(kPatience)).status();
}

}  // namespace savior
