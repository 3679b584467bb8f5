#include "launcher/training_run.h"

#include <ATen/Parallel.h>
#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <filesystem>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/process.h"
#include "common/progress.h"
#include "common/tensor_file.h"
#include "launcher/commit.h"
#include "launcher/logs.h"
#include "launcher/run_folder.h"
#include "launcher/temporary_folder.h"
#include "ps/local_store.h"
#include "worker/content.h"
#include "worker/device.h"
#include "worker/trainer.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::chrono::minutes kCommitTimeout{10};

absl::StatusOr<std::unique_ptr<LocalStore>> OpenStore(const Config& config, const fs::path& live,
                                                      const fs::path& restore_from) {
  LocalStoreOptions options;
  options.tables = ModelTables(config);
  options.shards = static_cast<uint32_t>(config.ps.shards);
  options.steps_per_minute = static_cast<double>(config.ps.steps_per_minute);
  options.ram_budget_bytes = static_cast<uint64_t>(config.ps.ram_budget_mb) << 20;
  options.folder = live;
  options.seed = static_cast<uint64_t>(config.seed);
  options.restore_from = restore_from;
  return LocalStore::Open(options);
}

absl::StatusOr<std::vector<Bucket>> BucketsOf(const Config& config) {
  std::vector<BucketSpec> specs;
  for (const std::string& name : config.eval.bucket_order())
    specs.push_back({name, config.eval.buckets.at(name)});
  return ParseBuckets(specs);
}

// A trainer over `store`, with the dense weights of `commit`.
absl::StatusOr<std::unique_ptr<Trainer>> RestoreTrainer(const Config& config,
                                                        const TrainingLog& log, LocalStore& store,
                                                        Period training, const Commit& commit) {
  SAVIOR_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, &log, &store, training));
  const fs::path file = commit.folder / kDenseFile;
  SAVIOR_ASSIGN_OR_RETURN(const TensorFile dense, ReadTensorFile(file));
  SAVIOR_RETURN_IF_ERROR(Annotate(trainer->dense().Load(dense), file.string()));
  return trainer;
}

struct Scores {
  Predictions predictions;
  ItemFacts facts;
  EvalResult result;
};

absl::StatusOr<Scores> Score(Trainer& trainer, const TrainingLog& log, const Periods& periods,
                             std::span<const Bucket> buckets) {
  Scores scores;
  SAVIOR_ASSIGN_OR_RETURN(scores.predictions, trainer.Predict(periods.evaluation));
  SAVIOR_ASSIGN_OR_RETURN(scores.facts, ScanTraining(log, periods.training));
  SAVIOR_ASSIGN_OR_RETURN(scores.result, Evaluate(log, scores.predictions, buckets, scores.facts));
  return scores;
}

// Sums inside LibTorch depend on the number of threads: scoring must use as many as training did.
void UseThreads(const Config& config) {
  at::set_num_threads(static_cast<int>(config.train.threads));
}

// Wrong dates are the likeliest mistake with a new data set: found before hours of training.
absl::Status CheckPeriods(const TrainingLog& log, const Periods& periods) {
  const auto requests = [&log](Period period) {
    int64_t n = 0;
    for (const DayInfo& day : log.days()) {
      if (period.from <= day.start && day.start < period.until) n += day.requests;
    }
    return n;
  };
  const std::string days = log.days().empty() ? "the data has no requests at all"
                                              : fmt::format("the data's requests are from {} to {}",
                                                            FormatDate(log.days().front().start),
                                                            FormatDate(log.days().back().start));
  if (requests(periods.training) == 0) {
    return absl::InvalidArgumentError(fmt::format(
        "no requests to train on from data.train_from = {} until data.train_until = {}: {}",
        FormatDate(periods.training.from), FormatDate(periods.training.until), days));
  }
  if (requests(periods.evaluation) == 0) {
    LOG(WARNING) << "no requests to score from data.eval_from = "
                 << FormatDate(periods.evaluation.from)
                 << " until data.eval_until = " << FormatDate(periods.evaluation.until) << ": "
                 << days;
  }
  return absl::OkStatus();
}

// Everything of a run that is alive at once. Members in the order in which they come to be;
// destroyed backwards.
class TrainingRun {
 public:
  TrainingRun(const Config& config, const RunOptions& options, std::ostream& out)
      : config_(config), options_(options), out_(out) {}

  absl::StatusOr<EvalResult> Run();
  bool has_folder() const { return folder_ != nullptr; }

 private:
  absl::Status Open();
  absl::Status StartAfresh();
  absl::Status GoOn(const Commit& commit);
  absl::Status TrainLoop();
  absl::Status WriteMetrics(const StepFigures& figures);
  absl::Status CommitNow();
  absl::StatusOr<EvalResult> Finish();
  bool Stopped() const { return options_.stop && options_.stop->load(); }

  const Config config_;
  const RunOptions options_;
  std::ostream& out_;
  std::vector<Bucket> buckets_;
  Periods periods_;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<TrainingLog> log_;
  std::unique_ptr<LocalStore> store_;
  Content content_;
  std::unique_ptr<Trainer> trainer_;

  int64_t samples_ = 0;          // impressions since step 0
  int64_t committed_step_ = -1;  // of the newest commit
  absl::Time train_start_;
  double train_cpu_start_ = 0;
  int64_t samples_start_ = 0;  // at train_start_
  double train_wall_s_ = 0, train_cpu_s_ = 0;
  absl::Time last_metrics_;
  double last_cpu_ = 0;
  int64_t last_samples_ = 0;
  RankerLosses mean_;  // exponential means, for people
};

absl::StatusOr<EvalResult> TrainingRun::Run() {
  SAVIOR_RETURN_IF_ERROR(Open());
  SAVIOR_RETURN_IF_ERROR(TrainLoop());
  if (trainer_->step() != committed_step_) {
    SAVIOR_RETURN_IF_ERROR(CommitNow());
  }
  if (Stopped() && trainer_->step() < trainer_->total_steps()) {
    return absl::CancelledError(fmt::format(
        "stopped after step {} of {}; committed to {}. Go on with: savior train {} --resume",
        trainer_->step(), trainer_->total_steps(), folder_->commits().string(),
        (folder_->path() / kResolvedFile).string()));
  }
  return Finish();
}

absl::Status TrainingRun::Open() {
  // Before hours of preparing; the trainer picks it again.
  SAVIOR_RETURN_IF_ERROR(PickDevice(config_.cluster.device, 0).status());
  SAVIOR_ASSIGN_OR_RETURN(buckets_, BucketsOf(config_));
  SAVIOR_ASSIGN_OR_RETURN(periods_, PeriodsOf(config_));
  SAVIOR_ASSIGN_OR_RETURN(log_, OpenOrPrepare(config_));
  SAVIOR_RETURN_IF_ERROR(CheckPeriods(*log_, periods_));
  SAVIOR_ASSIGN_OR_RETURN(folder_, RunFolder::Open(config_, options_.resume));
  LOG(INFO) << "run " << folder_->path().string() << ", arm " << config_.model.arm << ", seed "
            << config_.seed;
  if (folder_->resumed()) {
    absl::StatusOr<Commit> commit = NewestCommit(folder_->commits());
    if (commit.ok()) return GoOn(*commit);
    // Without any commit nothing can be lost by starting again; a damaged one is for a person to
    // decide on.
    if (!absl::IsNotFound(commit.status())) return commit.status();
    LOG(WARNING) << "the run was stopped before its first commit: starting from the beginning";
  }
  return StartAfresh();
}

absl::Status TrainingRun::StartAfresh() {
  SAVIOR_ASSIGN_OR_RETURN(content_, TrainContent(*log_, config_, periods_.training));
  SAVIOR_ASSIGN_OR_RETURN(store_, OpenStore(config_, folder_->live(), ""));
  SAVIOR_RETURN_IF_ERROR(PublishContent(*log_, content_, config_, *store_));
  SAVIOR_ASSIGN_OR_RETURN(trainer_,
                          Trainer::Create(config_, log_.get(), store_.get(), periods_.training));
  return absl::OkStatus();
}

absl::Status TrainingRun::GoOn(const Commit& commit) {
  const fs::path& from = commit.folder;
  LOG(INFO) << "going on from " << from.string() << ", step " << commit.manifest.step;
  if (commit.manifest.log_fingerprint != log_->fingerprint()) {
    return absl::FailedPreconditionError(
        fmt::format("{} was trained on a training log with fingerprint {}, data.raw now gives {}: "
                    "use the same data or another run.dir",
                    from.string(), commit.manifest.log_fingerprint, log_->fingerprint()));
  }
  if (fs::exists(from / kEncoderFile)) {
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(from / kEncoderFile));
    SAVIOR_ASSIGN_OR_RETURN(content_.encoder, LoadEncoder(file));
  }
  if (fs::exists(from / kCodebookFile)) {
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(from / kCodebookFile));
    SAVIOR_ASSIGN_OR_RETURN(content_.codebook, LoadCodebook(file));
  }
  SAVIOR_ASSIGN_OR_RETURN(store_, OpenStore(config_, folder_->live(), from));
  SAVIOR_ASSIGN_OR_RETURN(trainer_,
                          RestoreTrainer(config_, *log_, *store_, periods_.training, commit));
  SAVIOR_RETURN_IF_ERROR(trainer_->Seek(commit.manifest.step));
  samples_ = commit.manifest.samples;
  committed_step_ = commit.manifest.step;
  return absl::OkStatus();
}

absl::Status TrainingRun::TrainLoop() {
  LOG(INFO) << "computing on " << trainer_->device().str();
  if (options_.before_first_step) options_.before_first_step();
  train_start_ = last_metrics_ = absl::Now();
  train_cpu_start_ = last_cpu_ = ProcessCpuSeconds();
  samples_start_ = last_samples_ = samples_;
  Progress progress("training", trainer_->total_steps(), "steps", absl::Seconds(15),
                    trainer_->step());
  while (trainer_->step() < trainer_->total_steps() && !Stopped()) {
    SAVIOR_ASSIGN_OR_RETURN(const StepFigures figures, trainer_->Step());
    samples_ += figures.rows;
    const double keep = trainer_->step() == 1 ? 0.0 : 0.99;
    mean_.ctr = keep * mean_.ctr + (1 - keep) * figures.losses.ctr;
    mean_.ctcvr = keep * mean_.ctcvr + (1 - keep) * figures.losses.ctcvr;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - train_start_);
    progress.Update(trainer_->step(),
                    fmt::format("loss {:.4f} {:.4f}, {:.0f} samples/s", mean_.ctr, mean_.ctcvr,
                                static_cast<double>(samples_ - samples_start_) / seconds));
    if (absl::Now() - last_metrics_ >= absl::Seconds(config_.train.metrics_every_s)) {
      SAVIOR_RETURN_IF_ERROR(WriteMetrics(figures));
    }
    if (config_.commit.every_steps > 0 && trainer_->step() % config_.commit.every_steps == 0) {
      SAVIOR_RETURN_IF_ERROR(CommitNow());
    }
  }
  train_wall_s_ = absl::ToDoubleSeconds(absl::Now() - train_start_);
  train_cpu_s_ = ProcessCpuSeconds() - train_cpu_start_;
  progress.Finish(fmt::format("loss {:.4f} {:.4f}", mean_.ctr, mean_.ctcvr));
  return absl::OkStatus();
}

absl::Status TrainingRun::WriteMetrics(const StepFigures& figures) {
  const absl::Time now = absl::Now();
  const double cpu = ProcessCpuSeconds();
  const auto samples = static_cast<double>(samples_ - last_samples_);
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<TableStats> tables,
                          store_->Stats(DeadlineIn(std::chrono::seconds(10))));
  const auto hit_rate = [](uint64_t hits, uint64_t pulled) {
    return pulled == 0 ? 1.0 : static_cast<double>(hits) / static_cast<double>(pulled);
  };
  uint64_t pulled = 0, hits = 0;
  Json by_table = Json::object();
  for (const TableStats& t : tables) {
    pulled += t.pulled - t.missing;
    hits += t.hot_hits;
    by_table[t.name] = {
        {"rows", t.rows},           {"hot_rows", t.hot_rows},
        {"hot_bytes", t.hot_bytes}, {"hot_hit_rate", hit_rate(t.hot_hits, t.pulled - t.missing)},
        {"hinted", t.hinted},       {"written_back", t.written_back},
        {"admitted", t.admitted},   {"refused", t.refused},
        {"evicted", t.evicted},     {"skipped", t.skipped}};
  }
  const Json line = {{"step", trainer_->step()},
                     {"time", absl::ToUnixSeconds(now)},
                     {"loss_ctr", mean_.ctr},
                     {"loss_ctcvr", mean_.ctcvr},
                     {"samples_per_s", samples / absl::ToDoubleSeconds(now - last_metrics_)},
                     {"samples_per_cpu_s", samples / (cpu - last_cpu_)},
                     {"rows_pulled", figures.rows_pulled},
                     {"hot_hit_rate", hit_rate(hits, pulled)},
                     {"tables", by_table},
                     {"rss_bytes", RssBytes()}};
  last_metrics_ = now;
  last_cpu_ = cpu;
  last_samples_ = samples_;
  return folder_->AddMetrics(line);
}

absl::Status TrainingRun::CommitNow() {
  CommitManifest manifest;
  manifest.step = trainer_->step();
  manifest.samples = samples_;
  manifest.log_fingerprint = log_->fingerprint();
  manifest.shards = static_cast<uint32_t>(config_.ps.shards);
  manifest.tables = store_->tables();
  const auto fill = [this](const fs::path& part) {
    SAVIOR_RETURN_IF_ERROR(store_->Checkpoint(part, DeadlineIn(kCommitTimeout)));
    SAVIOR_RETURN_IF_ERROR(WriteTensorFile(part / kDenseFile, trainer_->dense().Save()));
    if (content_.encoder)
      SAVIOR_RETURN_IF_ERROR(WriteTensorFile(part / kEncoderFile, content_.encoder->Save()));
    if (content_.codebook)
      SAVIOR_RETURN_IF_ERROR(WriteTensorFile(part / kCodebookFile, content_.codebook->Save()));
    return WriteFileAtomically(part / kResolvedFile, ToToml(config_));
  };
  SAVIOR_RETURN_IF_ERROR(WriteCommit(folder_->commits(), std::move(manifest), fill).status());
  committed_step_ = trainer_->step();
  return KeepNewest(folder_->commits(), config_.commit.keep);
}

absl::StatusOr<EvalResult> TrainingRun::Finish() {
  LOG(INFO) << "evaluating " << config_.data.eval_from << " to " << config_.data.eval_until;
  SAVIOR_ASSIGN_OR_RETURN(Scores scores, Score(*trainer_, *log_, periods_, buckets_));
  if (config_.eval.save_predictions) {
    SAVIOR_RETURN_IF_ERROR(
        SavePredictions(folder_->predictions(), *log_, scores.predictions, buckets_, scores.facts));
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
                       {"peak_rss_bytes", PeakRssBytes()}}}};
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder_->result(), json.dump(2) + "\n"));
  out_ << fmt::format("\n{} impressions in {:.0f} s ({:.0f} per CPU-second), result in {}\n",
                      samples_ - samples_start_, train_wall_s_,
                      train_cpu_s_ > 0 ? trained / train_cpu_s_ : 0.0, folder_->result().string());
  return std::move(scores.result);
}

}  // namespace

absl::StatusOr<EvalResult> Train(const Config& config, const RunOptions& options,
                                 std::ostream& out) {
  UseThreads(config);
  TrainingRun run(config, options, out);
  absl::StatusOr<EvalResult> result = run.Run();
  // While the run's log is open: whoever looks there later should find why it ended.
  if (!result.ok() && !absl::IsCancelled(result.status()) && run.has_folder())
    LOG(ERROR) << result.status().message();
  return result;
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
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<Bucket> buckets, BucketsOf(config));
  SAVIOR_ASSIGN_OR_RETURN(const Periods periods, PeriodsOf(config));
  SAVIOR_ASSIGN_OR_RETURN(const auto log, OpenOrPrepare(config));

  // Working files of its own: evaluation may run beside the training that wrote the commit.
  SAVIOR_ASSIGN_OR_RETURN(const auto live, TemporaryFolder::Make("evaluate"));
  SAVIOR_ASSIGN_OR_RETURN(const auto store, OpenStore(config, live->path(), from.folder));
  SAVIOR_ASSIGN_OR_RETURN(const auto trainer,
                          RestoreTrainer(config, *log, *store, periods.training, from));
  SAVIOR_ASSIGN_OR_RETURN(Scores scores, Score(*trainer, *log, periods, buckets));
  PrintTable(scores.result, out);
  return std::move(scores.result);
}

absl::Status DryRun(const Config& config, std::ostream& out) {
  SAVIOR_RETURN_IF_ERROR(PickDevice(config.cluster.device, 0).status());
  SAVIOR_RETURN_IF_ERROR(BucketsOf(config).status());
  SAVIOR_ASSIGN_OR_RETURN(const Periods periods, PeriodsOf(config));
  SAVIOR_ASSIGN_OR_RETURN(const auto log, OpenOrPrepare(config));
  const auto count = [&](const char* name, Period period) -> absl::Status {
    BatchOptions options;
    options.period = period;
    options.requests_per_batch = config.train.requests_per_batch;
    SAVIOR_ASSIGN_OR_RETURN(const auto reader, BatchReader::Create(log.get(), options));
    out << fmt::format("{}: {} impressions in {} requests, {} batches\n", name, reader->num_rows(),
                       reader->num_requests(), reader->num_batches());
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(count("training", periods.training));
  SAVIOR_RETURN_IF_ERROR(count("evaluation", periods.evaluation));
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
