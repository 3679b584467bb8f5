#include "worker/trainer.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/random.h"
#include "worker/device.h"

namespace savior {
namespace {

// Pulls under way beyond this cost memory and gain nothing: a step's answer takes less than a step.
constexpr int64_t kMostPullsAhead = 4;
constexpr int64_t kAsynchronousPullsAhead = 2;

int64_t PullsAhead(int64_t staleness) {
  return staleness < 0 ? kAsynchronousPullsAhead : std::min(staleness, kMostPullsAhead);
}

BatchOptions TrainingBatches(const Config& config, const Segments& training, int64_t epoch,
                             const Allreduce& workers) {
  BatchOptions options;
  options.period = training.whole;
  options.cuts = training.cuts;
  options.requests_per_batch = config.train.requests_per_batch;
  options.max_history = config.data.max_history;
  options.shuffle_window = config.train.shuffle_window;
  options.seed = MixTwo(static_cast<uint64_t>(config.seed), static_cast<uint64_t>(epoch));
  options.worker = workers.rank();
  options.workers = workers.size();
  return options;
}

// Adds the time of its life.
class Stopwatch {
 public:
  explicit Stopwatch(double* seconds) : seconds_(seconds) {}
  ~Stopwatch() { *seconds_ += SecondsSince(start_); }

 private:
  double* const seconds_;
  const SteadyClock::time_point start_ = SteadyClock::now();
};

// What LibTorch throws, as a status: above all that a device's memory is full.
template <typename F>
absl::Status Guarded(const F& compute) {
  try {
    compute();
    return absl::OkStatus();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the device's memory is full: lower train.requests_per_batch or "
                     "eval.requests_per_batch: ",
                     error.what_without_backtrace()));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat("LibTorch: ", error.what_without_backtrace()));
  }
}

}  // namespace

Trainer::Trainer(const Config& config, const TrainingLog* log, EmbeddingStore* store,
                 const Segments& training, Allreduce* allreduce, at::Device device)
    : config_(config),
      log_(log),
      store_(store),
      training_(training),
      allreduce_(allreduce == nullptr ? &solo_ : allreduce),
      pulls_ahead_(PullsAhead(config.cluster.staleness)),
      device_(device),
      assembler_(log, config),
      ranker_(config,
              {assembler_.num_features(), assembler_.num_context(), assembler_.num_numerics()},
              {.device = device}),
      buckets_(ranker_.dense().parameters(), ranker_.dense().gradient_memory(), allreduce_) {
  if (allreduce_->size() > 1) {
    ranker_.OnGradient([this](size_t parameter) { buckets_.Ready(parameter); });
  }
}

Trainer::~Trainer() {
  DropAhead();
  if (push_) store_->Finish(*push_).IgnoreError();
  // Nobody sums what is about to be gone.
  if (summing_) allreduce_->Finish(SteadyClock::now()).IgnoreError();
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const Config& config,
                                                         const TrainingLog* log,
                                                         EmbeddingStore* store,
                                                         const Segments& training,
                                                         Allreduce* allreduce, int64_t local_rank) {
  SAVIOR_ASSIGN_OR_RETURN(const at::Device device, PickDevice(config.cluster.device, local_rank));
  std::unique_ptr<Trainer> trainer;
  SAVIOR_RETURN_IF_ERROR(Guarded(
      [&] { trainer.reset(new Trainer(config, log, store, training, allreduce, device)); }));
  SAVIOR_ASSIGN_OR_RETURN(
      auto reader,
      BatchReader::Create(log, TrainingBatches(config, training, 0, *trainer->allreduce_)));
  trainer->steps_per_epoch_ = reader->num_batches();
  trainer->total_steps_ = reader->num_batches() * config.train.epochs;
  if (config.train.max_steps > 0) {
    trainer->total_steps_ = std::min(trainer->total_steps_, config.train.max_steps);
  }
  trainer->reader_ = std::move(reader);
  trainer->epoch_ = 0;
  return trainer;
}

absl::Status Trainer::Seek(int64_t step) {
  if (step < 0 || step > total_steps_) {
    return absl::InvalidArgumentError(
        absl::StrCat("step ", step, " lies outside of this run's 0 to ", total_steps_));
  }
  step_ = step;
  return DropUnderWay();
}

absl::Status Trainer::UseCodebook(uint32_t version, uint32_t build) {
  SAVIOR_RETURN_IF_ERROR(DropUnderWay());
  assembler_.UseCodebook(version, build);
  return absl::OkStatus();
}

absl::Status Trainer::DropUnderWay() {
  DropAhead();
  SAVIOR_RETURN_IF_ERROR(Settle());
  return store_->CancelHints(0);
}

// A ticket must be finished, even if nobody wants its rows.
void Trainer::DropAhead() {
  for (const Ahead& ahead : ahead_) {
    if (ahead.pull) store_->Finish(*ahead.pull).IgnoreError();
  }
  ahead_.clear();
}

Deadline Trainer::NextDeadline() const { return DeadlineIn(Milliseconds(config_.ps.timeout_s)); }

absl::StatusOr<Batch> Trainer::ReadBatch(int64_t step) {
  const int64_t epoch = step / steps_per_epoch_;
  if (epoch != epoch_) {
    SAVIOR_ASSIGN_OR_RETURN(
        reader_,
        BatchReader::Create(log_, TrainingBatches(config_, training_, epoch, *allreduce_)));
    epoch_ = epoch;
  }
  return reader_->Read(step % steps_per_epoch_);
}

absl::StatusOr<StepInputs> Trainer::Load(int64_t step) {
  SAVIOR_ASSIGN_OR_RETURN(Batch batch, ReadBatch(step));
  return assembler_.Assemble(std::move(batch), *store_, NextDeadline());
}

absl::StatusOr<int64_t> Trainer::DataTime() {
  if (step_ == 0) return training_.whole.from;
  SAVIOR_ASSIGN_OR_RETURN(const Batch batch, ReadBatch(step_ - 1));
  return batch.timestamps.empty() ? training_.whole.from : std::ranges::max(batch.timestamps);
}

// Starts the pulls of steps up to `until`, as far as they are assembled.
absl::Status Trainer::StartPulls(int64_t until) {
  for (size_t i = 0; i < ahead_.size() && step_ + static_cast<int64_t>(i) <= until; ++i) {
    Ahead& ahead = ahead_[i];
    if (ahead.pull) continue;
    SAVIOR_ASSIGN_OR_RETURN(ahead.pull,
                            store_->StartPull(step_ + static_cast<int64_t>(i),
                                              PullsOf(ahead.in, store_->tables()), NextDeadline()));
  }
  return absl::OkStatus();
}

absl::Status Trainer::FinishPull(Ahead& ahead) {
  const Ticket pull = *ahead.pull;
  ahead.pull.reset();
  return store_->Finish(pull);
}

// Assembles this step and the next ones, and starts those pulls that may be under way now. While
// this step computes the shards bring up the rows of the next.
absl::Status Trainer::LookAhead(StepSeconds* seconds) {
  const int64_t last = std::min(step_ + std::max<int64_t>(1, pulls_ahead_), total_steps_ - 1);
  for (int64_t step = step_; step <= last; ++step) {
    if (step - step_ == static_cast<int64_t>(ahead_.size())) {
      const Stopwatch watch(&seconds->assemble);
      SAVIOR_ASSIGN_OR_RETURN(StepInputs in, Load(step));
      ahead_.push_back({std::move(in), std::nullopt});
      if (step > step_) {
        SAVIOR_RETURN_IF_ERROR(store_->Hint(step, LearnedKeys(ahead_.back().in)));
      }
    }
    const Stopwatch watch(&seconds->pull_wait);
    SAVIOR_RETURN_IF_ERROR(StartPulls(step_ + pulls_ahead_));
  }
  return absl::OkStatus();
}

absl::StatusOr<StepFigures> Trainer::Step(StepWishes wishes) {
  StepFigures figures;
  StepSeconds& seconds = figures.seconds;
  SAVIOR_RETURN_IF_ERROR(LookAhead(&seconds));
  {
    const Stopwatch watch(&seconds.pull_wait);
    SAVIOR_RETURN_IF_ERROR(FinishPull(ahead_.front()));
  }
  const StepInputs& in = ahead_.front().in;
  figures.requests = in.batch.global_requests;
  figures.rows = in.batch.global_rows;
  if (!in.batch.timestamps.empty()) figures.data_time = std::ranges::max(in.batch.timestamps);
  for (const TableKeys& keys : LearnedKeys(in))
    figures.rows_pulled += static_cast<int64_t>(keys.keys.size());
  if (config_.eval.progressive) SAVIOR_RETURN_IF_ERROR(ScoreBefore(in));
  RowGradients grads;
  SAVIOR_RETURN_IF_ERROR(Compute(in, wishes, &grads, &figures));
  {
    const Stopwatch watch(&seconds.push_wait);
    SAVIOR_RETURN_IF_ERROR(StartPush(in, grads));
  }
  ahead_.pop_front();
  ++step_;
  {
    // Behind the push: where the shards wait for all workers' pushes, they answer at once then.
    const Stopwatch watch(&seconds.pull_wait);
    SAVIOR_RETURN_IF_ERROR(StartPulls(step_ + pulls_ahead_));
  }
  SAVIOR_RETURN_IF_ERROR(Sum(&figures));
  {
    const Stopwatch watch(&seconds.adam);
    AdamOptions adam;
    adam.lr = config_.train.dense_lr;
    adam.weight_decay = config_.train.dense_weight_decay;
    SAVIOR_RETURN_IF_ERROR(Guarded([&] { ranker_.dense().AdamStep(adam); }));
  }
  if (figures.wishes.stop || figures.wishes.roll_back || step_ == total_steps_) {
    const Stopwatch watch(&seconds.push_wait);
    SAVIOR_RETURN_IF_ERROR(Settle());
  }
  return figures;
}

// Forward and backward; leaves all sums of the step started.
absl::Status Trainer::Compute(const StepInputs& in, StepWishes wishes, RowGradients* grads,
                              StepFigures* figures) {
  const Stopwatch watch(&figures->seconds.compute);
  summing_ = true;
  RankerLosses losses;
  SAVIOR_RETURN_IF_ERROR(Guarded([&] { losses = ranker_.Learn(in, step_, grads); }));
  // Before a push spreads it.
  SAVIOR_RETURN_IF_ERROR(CheckLosses(step_, losses));
  buckets_.StartRest();
  const auto vote = [](bool wish) { return wish ? 1.0f : 0.0f; };
  totals_ = {static_cast<float>(losses.ctr),
             static_cast<float>(losses.ctcvr),
             vote(wishes.stop),
             vote(wishes.commit),
             vote(wishes.roll_back),
             vote(wishes.refresh_begin),
             vote(wishes.refresh_busy),
             vote(wishes.refresh_give_up)};
  allreduce_->Start(totals_);
  return absl::OkStatus();
}

// Waits for the sums of the step that was computed last.
absl::Status Trainer::Sum(StepFigures* figures) {
  const Stopwatch watch(&figures->seconds.allreduce_wait);
  summing_ = false;
  SAVIOR_RETURN_IF_ERROR(
      Annotate(allreduce_->Finish(DeadlineIn(Milliseconds(config_.cluster.allreduce_timeout_s))),
               absl::StrCat("step ", step_ - 1)));
  figures->losses = {totals_[0], totals_[1]};
  figures->wishes = {.stop = totals_[2] > 0,
                     .commit = totals_[3] > 0,
                     .roll_back = totals_[4] > 0,
                     .refresh_begin = totals_[5] > 0,
                     .refresh_busy = totals_[6] > 0,
                     .refresh_give_up = totals_[7] > 0};
  return CheckLosses(step_ - 1, figures->losses);
}

absl::Status Trainer::CheckLosses(int64_t step, const RankerLosses& losses) {
  if (std::isfinite(losses.ctr) && std::isfinite(losses.ctcvr)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("step ", step,
                                          ": the loss is not finite: lower train.dense_lr or "
                                          "train.table_lr, or look for extreme numeric features"));
}

// Always, even if there is nothing to push: it tells the shards that this worker has done the step.
absl::Status Trainer::StartPush(const StepInputs& in, const RowGradients& grads) {
  SAVIOR_RETURN_IF_ERROR(Settle());
  std::vector<TablePush> pushes;
  const auto add = [&pushes](uint32_t table, const Lookup& lookup,
                             const std::vector<float>& gradient) {
    if (!gradient.empty()) pushes.push_back({table, lookup.keys, gradient});
  };
  add(kUserTable, in.user, grads.user);
  add(kItemTable, in.item, grads.item);
  add(kFeatureTable, in.feature, grads.feature);
  add(kAlignTable, in.align, grads.align);
  add(kContentVectorTable, in.content_vector, grads.content_vector);
  add(kPrefixTable, in.prefix, grads.prefix);
  if (noting_prefixes_) {
    for (const uint64_t key : in.prefix.keys) pushed_prefixes_[key] = step_;
  }
  SAVIOR_ASSIGN_OR_RETURN(push_, store_->StartPush(step_, pushes, NextDeadline()));
  return absl::OkStatus();
}

absl::Status Trainer::Settle() {
  if (!push_) return absl::OkStatus();
  const Ticket push = *push_;
  push_.reset();
  return store_->Finish(push);
}

void Trainer::NotePrefixes(bool on) {
  noting_prefixes_ = on;
  pushed_prefixes_.clear();
}

std::vector<uint64_t> Trainer::PrefixesPushedSince(int64_t step) const {
  std::vector<uint64_t> keys;
  for (const auto& [key, last] : pushed_prefixes_) {
    if (last >= step) keys.push_back(key);
  }
  std::ranges::sort(keys);
  return keys;
}

absl::Status Trainer::ScoreBefore(const StepInputs& in) {
  std::vector<float> p_ctr, p_ctcvr;
  SAVIOR_RETURN_IF_ERROR(Guarded([&] { ranker_.Predict(in, &p_ctr, &p_ctcvr); }));
  progressive_.predictions.Append(in.batch, p_ctr, p_ctcvr);
  progressive_.batch_rows.push_back(in.batch.rows());
  return absl::OkStatus();
}

PredictionShare Trainer::TakeProgressive() {
  progressive_.worker = allreduce_->rank();
  progressive_.workers = allreduce_->size();
  return std::exchange(progressive_, {});
}

absl::StatusOr<Predictions> Trainer::Predict(Period period) {
  SAVIOR_ASSIGN_OR_RETURN(PredictionShare all, PredictShare(period, 0, 1));
  return std::move(all.predictions);
}

absl::StatusOr<PredictionShare> Trainer::PredictShare(Period period, int64_t worker,
                                                      int64_t workers) {
  BatchOptions options;
  options.period = period;
  options.requests_per_batch = config_.eval.requests_per_batch;
  options.max_history = config_.data.max_history;
  SAVIOR_ASSIGN_OR_RETURN(const auto reader, BatchReader::Create(log_, options));
  PredictionShare share;
  share.worker = worker;
  share.workers = workers;
  std::vector<float> p_ctr, p_ctcvr;
  for (int64_t b = worker; b < reader->num_batches(); b += workers) {
    SAVIOR_ASSIGN_OR_RETURN(Batch batch, reader->Read(b));
    SAVIOR_ASSIGN_OR_RETURN(StepInputs in,
                            assembler_.Assemble(std::move(batch), *store_, NextDeadline()));
    SAVIOR_RETURN_IF_ERROR(FetchRows(in, *store_, NextDeadline()));
    SAVIOR_RETURN_IF_ERROR(Guarded([&] { ranker_.Predict(in, &p_ctr, &p_ctcvr); }));
    share.predictions.Append(in.batch, p_ctr, p_ctcvr);
    share.batch_rows.push_back(in.batch.rows());
  }
  return share;
}

}  // namespace savior
