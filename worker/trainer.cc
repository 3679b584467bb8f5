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

BatchOptions TrainingBatches(const Config& config, Period training, int64_t epoch) {
  BatchOptions options;
  options.period = training;
  options.requests_per_batch = config.train.requests_per_batch;
  options.max_history = config.data.max_history;
  options.shuffle_window = config.train.shuffle_window;
  options.seed = MixTwo(static_cast<uint64_t>(config.seed), static_cast<uint64_t>(epoch));
  return options;
}

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
                 Period training, at::Device device)
    : config_(config),
      log_(log),
      store_(store),
      training_(training),
      device_(device),
      assembler_(log, config),
      ranker_(config,
              {assembler_.num_features(), assembler_.num_context(), assembler_.num_numerics()},
              {.device = device}) {}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const Config& config,
                                                         const TrainingLog* log,
                                                         EmbeddingStore* store, Period training,
                                                         int64_t local_rank) {
  SAVIOR_ASSIGN_OR_RETURN(const at::Device device, PickDevice(config.cluster.device, local_rank));
  std::unique_ptr<Trainer> trainer;
  SAVIOR_RETURN_IF_ERROR(
      Guarded([&] { trainer.reset(new Trainer(config, log, store, training, device)); }));
  SAVIOR_ASSIGN_OR_RETURN(auto reader,
                          BatchReader::Create(log, TrainingBatches(config, training, 0)));
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
  ahead_.reset();
  return store_->CancelHints(0);
}

Deadline Trainer::NextDeadline() const {
  return DeadlineIn(std::chrono::milliseconds(static_cast<int64_t>(config_.ps.timeout_s * 1e3)));
}

absl::StatusOr<StepInputs> Trainer::Load(int64_t step) {
  const int64_t epoch = step / steps_per_epoch_;
  if (epoch != epoch_) {
    SAVIOR_ASSIGN_OR_RETURN(reader_,
                            BatchReader::Create(log_, TrainingBatches(config_, training_, epoch)));
    epoch_ = epoch;
  }
  SAVIOR_ASSIGN_OR_RETURN(Batch batch, reader_->Read(step % steps_per_epoch_));
  return assembler_.Assemble(std::move(batch), *store_, NextDeadline());
}

absl::StatusOr<StepFigures> Trainer::Step() {
  if (!ahead_) {
    SAVIOR_ASSIGN_OR_RETURN(ahead_, Load(step_));
  }
  StepInputs in = std::move(*ahead_);
  ahead_.reset();
  SAVIOR_RETURN_IF_ERROR(FetchRows(in, *store_, NextDeadline()));
  if (step_ + 1 < total_steps_) {
    // The shards bring up the next step's rows while this one computes.
    SAVIOR_ASSIGN_OR_RETURN(ahead_, Load(step_ + 1));
    SAVIOR_RETURN_IF_ERROR(store_->Hint(step_ + 1, LearnedKeys(*ahead_)));
  }
  RowGradients grads;
  StepFigures figures;
  SAVIOR_RETURN_IF_ERROR(Guarded([&] { figures.losses = ranker_.Learn(in, step_, &grads); }));
  if (!std::isfinite(figures.losses.ctr) || !std::isfinite(figures.losses.ctcvr)) {
    return absl::DataLossError(
        absl::StrCat("step ", step_,
                     ": the loss is not finite: lower train.dense_lr or "
                     "train.table_lr, or look for extreme numeric features"));
  }
  SAVIOR_RETURN_IF_ERROR(Push(in, grads));
  AdamOptions adam;
  adam.lr = config_.train.dense_lr;
  adam.weight_decay = config_.train.dense_weight_decay;
  SAVIOR_RETURN_IF_ERROR(Guarded([&] { ranker_.dense().AdamStep(adam); }));
  ++step_;
  figures.requests = in.batch.requests();
  figures.rows = in.batch.rows();
  for (const TableKeys& keys : LearnedKeys(in))
    figures.rows_pulled += static_cast<int64_t>(keys.keys.size());
  return figures;
}

absl::Status Trainer::Push(const StepInputs& in, const RowGradients& grads) {
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
  return store_->Push(step_, pushes, NextDeadline());
}

absl::StatusOr<Predictions> Trainer::Predict(Period period) {
  BatchOptions options;
  options.period = period;
  options.requests_per_batch = config_.eval.requests_per_batch;
  options.max_history = config_.data.max_history;
  SAVIOR_ASSIGN_OR_RETURN(const auto reader, BatchReader::Create(log_, options));
  Predictions predictions;
  std::vector<float> p_ctr, p_ctcvr;
  for (int64_t b = 0; b < reader->num_batches(); ++b) {
    SAVIOR_ASSIGN_OR_RETURN(Batch batch, reader->Read(b));
    SAVIOR_ASSIGN_OR_RETURN(StepInputs in,
                            assembler_.Assemble(std::move(batch), *store_, NextDeadline()));
    SAVIOR_RETURN_IF_ERROR(FetchRows(in, *store_, NextDeadline()));
    SAVIOR_RETURN_IF_ERROR(Guarded([&] { ranker_.Predict(in, &p_ctr, &p_ctcvr); }));
    predictions.Append(in.batch, p_ctr, p_ctcvr);
  }
  return predictions;
}

}  // namespace savior
