// The worker's loop: batch -> unique keys -> pull -> forward, backward -> push and dense step.
//
// Sees the parameter server only as an EmbeddingStore. Single-threaded. Everything that a step does
// is a function of (configuration, log, step, weights), so that a run resumed at a step is
// bit-identical to one never stopped.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "common/config.h"
#include "common/store.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/eval/predictions.h"
#include "worker/model/ranker.h"
#include "worker/step_inputs.h"

namespace savior {

struct StepFigures {
  int64_t requests = 0;
  int64_t rows = 0;         // impressions
  int64_t rows_pulled = 0;  // unique rows of all tables
  RankerLosses losses;
};

class Trainer {
 public:
  // `log` and `store` must outlive the trainer. `training` may be empty of requests: zero steps.
  // Computes where cluster.device says (worker/device.h); `local_rank` is the worker's number on
  // its machine. kFailedPrecondition: there is no such device; kResourceExhausted: its memory is
  // full.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Trainer>> Create(const Config& config,
                                                                       const TrainingLog* log,
                                                                       EmbeddingStore* store,
                                                                       Period training,
                                                                       int64_t local_rank = 0);

  int64_t total_steps() const { return total_steps_; }
  int64_t step() const { return step_; }  // the next one
  // Goes on at `step`, 0 <= step <= total_steps() (the caller has restored weights and tables).
  [[nodiscard]] absl::Status Seek(int64_t step);

  // Performs one step; step() < total_steps(). kDataLoss: the loss is not finite (step named);
  // kResourceExhausted: the device's memory is full.
  [[nodiscard]] absl::StatusOr<StepFigures> Step();

  // Scores all requests of `period` in time order. Leaves no trace in tables or weights.
  [[nodiscard]] absl::StatusOr<Predictions> Predict(Period period);

  DenseWeights& dense() { return ranker_.dense(); }
  at::Device device() const { return device_; }

 private:
  Trainer(const Config& config, const TrainingLog* log, EmbeddingStore* store, Period training,
          at::Device device);
  absl::StatusOr<StepInputs> Load(int64_t step);
  absl::Status Push(const StepInputs& in, const RowGradients& grads);
  Deadline NextDeadline() const;

  const Config config_;
  const TrainingLog* const log_;
  EmbeddingStore* const store_;
  const Period training_;
  const at::Device device_;
  StepAssembler assembler_;
  Ranker ranker_;
  std::unique_ptr<BatchReader> reader_;  // of epoch_
  int64_t epoch_ = -1;
  int64_t steps_per_epoch_ = 0;
  int64_t total_steps_ = 0;
  int64_t step_ = 0;
  std::optional<StepInputs> ahead_;  // inputs of step_, hinted, not yet pulled
};

}  // namespace savior
