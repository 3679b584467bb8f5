#include "launcher/run_commands.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "launcher/commit.h"
#include "launcher/grown_log.h"
#include "launcher/logs.h"
#include "launcher/run_inputs.h"
#include "launcher/run_place.h"
#include "launcher/run_store.h"
#include "launcher/temporary_folder.h"
#include "worker/device.h"
#include "worker/tables.h"

namespace savior {

namespace fs = std::filesystem;

absl::StatusOr<EvalResult> Train(const Config& config, const RunOptions& options,
                                 std::ostream& out) {
  RunOptions mine = options;
  while (true) {
    SoloPlace place(config);
    TrainingRun run(config, mine, &place, out);
    absl::StatusOr<EvalResult> result = run.Run();
    if (!absl::IsAborted(result.status())) return result;
    LOG(INFO) << result.status().message();
    mine.resume = true;
  }
}

absl::StatusOr<EvalResult> EvaluateRun(const std::string& run, const std::string& commit,
                                       const std::vector<std::string>& overrides,
                                       std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const Commit from, commit.empty()
                                                 ? NewestCommit(fs::path(run) / "commits")
                                                 : OpenCommit(commit, /*digests=*/true));
  SAVIOR_ASSIGN_OR_RETURN(const Config config,
                          LoadConfig((from.folder / kResolvedFile).string(), overrides));
  UseThreads(config);
  SAVIOR_ASSIGN_OR_RETURN(const RunInputs inputs, RunInputs::Open(config));

  // Working files of its own: evaluation may run beside the training that wrote the commit.
  SAVIOR_ASSIGN_OR_RETURN(const auto live, TemporaryFolder::Make("evaluate"));
  SAVIOR_ASSIGN_OR_RETURN(const auto store, OpenLocalStore(config, live->path(), from.folder));
  // Any data may be scored; of other data than the commit's, contents are what it knows under these
  // ids.
  const absl::Status caught_up = CatchUp(from, config, *inputs.log, store->store()).status();
  if (!caught_up.ok() && !absl::IsFailedPrecondition(caught_up)) return caught_up;
  LOG_IF(WARNING, !caught_up.ok())
      << "items that the commit does not know have no content: " << caught_up.message();
  SAVIOR_ASSIGN_OR_RETURN(
      const auto trainer,
      Trainer::Create(config, inputs.log.get(), &store->store(), inputs.periods.training));
  SAVIOR_RETURN_IF_ERROR(LoadDense(from.folder, trainer.get()));
  SAVIOR_RETURN_IF_ERROR(
      trainer->UseCodebook(from.manifest.codebook.version, from.manifest.codebook.build));
  SoloGroup alone;
  SAVIOR_ASSIGN_OR_RETURN(Scores scores, Score(inputs, &alone, trainer.get()));
  PrintTable(scores.result, out);
  return std::move(scores.result);
}

absl::Status DryRun(const Config& config, std::ostream& out) {
  SAVIOR_RETURN_IF_ERROR(PickDevice(config.cluster.device, 0).status());
  SAVIOR_ASSIGN_OR_RETURN(const RunInputs inputs, RunInputs::Open(config));
  const TrainingLog* const log = inputs.log.get();
  const auto count = [&](const char* name, Period period) -> absl::Status {
    BatchOptions options;
    options.period = period;
    options.requests_per_batch = config.train.requests_per_batch;
    SAVIOR_ASSIGN_OR_RETURN(const auto reader, BatchReader::Create(log, options));
    out << fmt::format("{}: {} impressions in {} requests, {} batches\n", name, reader->num_rows(),
                       reader->num_requests(), reader->num_batches());
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(count("training", inputs.periods.training));
  SAVIOR_RETURN_IF_ERROR(count("evaluation", inputs.periods.evaluation));
  const std::vector<TableSpec> tables = ModelTables(config);
  // Upper bound: every user, item and content gets a row with one accumulator per weight.
  const auto bytes = [&](ModelTable table, int64_t rows) {
    return 8.0 * tables[table].dim * static_cast<double>(rows);
  };
  const double total = bytes(kUserTable, log->num_users()) + bytes(kItemTable, log->num_items()) +
                       2 * bytes(kContentTable, log->num_contents());
  out << fmt::format(
      "{} users, {} items, {} contents; tables at most about {:.0f} MiB, RAM budget {} MiB (the "
      "rest lives in RocksDB)\n",
      log->num_users(), log->num_items(), log->num_contents(), total / (1 << 20),
      config.ps.ram_budget_mb);
  out << "configuration and data are valid; nothing was trained\n";
  return absl::OkStatus();
}

absl::Status CheckEncoder(const Config& config, const RunOptions& options, std::ostream& out) {
  constexpr int64_t kHeldBack = 14 * 86400;
  SAVIOR_ASSIGN_OR_RETURN(const Periods periods, PeriodsOf(config));
  if (periods.training.until - kHeldBack <= periods.training.from) {
    return absl::InvalidArgumentError(
        "--check-encoder holds back the last 14 training days: train on more than that");
  }
  std::vector<std::pair<std::string, double>> aucs;
  for (const char* kind : {"pca", "swing_residual"}) {
    Config trial = config;
    trial.encoder.kind = kind;
    trial.encoder.refreshable = false;
    trial.exports = {};  // nothing to serve
    trial.data.train_until = trial.data.eval_from = FormatDate(periods.training.until - kHeldBack);
    trial.data.eval_until = FormatDate(periods.training.until);
    trial.run.dir = (fs::path(config.run.dir) / "check-encoder" / kind).string();
    out << "\nencoder.kind = \"" << kind << "\", scored on " << trial.data.eval_from << " to "
        << trial.data.eval_until << "\n";
    SAVIOR_ASSIGN_OR_RETURN(const EvalResult result, Train(trial, options, out));
    if (!result.ctr[0].second.auc) {
      return absl::FailedPreconditionError(
          "the held back days have clicks of one kind only: no AUC to compare");
    }
    aucs.emplace_back(kind, *result.ctr[0].second.auc);
  }
  const auto& best = aucs[0].second >= aucs[1].second ? aucs[0] : aucs[1];
  out << fmt::format("\nCTR AUC: pca {:.4f}, swing_residual {:.4f}. Use encoder.kind = \"{}\".\n",
                     aucs[0].second, aucs[1].second, best.first);
  return absl::OkStatus();
}

}  // namespace savior
