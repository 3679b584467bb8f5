// The worker's loop: slice of a batch -> unique keys -> pull -> forward, backward -> push and dense
// step.
//
// Sees the parameter server only as an EmbeddingStore, and the other workers only as an Allreduce.
// Everything that a step does is a function of (configuration, log, step, weights, number of
// workers), so that a run resumed at a step is bit-identical to one never stopped.
//
// What overlaps, with cluster.staleness 0:
//
//   worker     [ assemble t+1, hint ][ forward, backward t ][ push t, pull t+1 ][ Adam ]
//   allreduce                           [ buckets of t, as they get ready ]
//   shards     [ answer pull t ]                            [ apply t ][ answer pull t+1 ]
//
// With staleness s > 0 (-1: 2) the pulls of the next min(s, 4) steps are under way, too, while a
// step computes.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "common/config.h"
#include "common/store.h"
#include "worker/allreduce.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/eval/prediction_share.h"
#include "worker/eval/predictions.h"
#include "worker/gradient_buckets.h"
#include "worker/model/ranker.h"
#include "worker/step_inputs.h"

namespace savior {

// Where a step's time went, in seconds of this worker.
struct StepSeconds {
  double assemble = 0;        // batches, keys and indices of steps to come; hints
  double pull_wait = 0;       // starting pulls, waiting for this step's
  double compute = 0;         // forward and backward
  double push_wait = 0;       // starting this step's push, waiting for the one before
  double allreduce_wait = 0;  // after the backward pass
  double adam = 0;
};

// What a worker wants of all of them after a step, or lets them know: nobody can stop, commit or
// refresh the codebook alone.
struct StepWishes {
  bool stop = false;
  bool commit = false;
  bool roll_back = false;  // stop, and go back to the codebook before
  // Of a refresh of the codebook (launcher/refresh_flow.h).
  bool refresh_begin = false;
  bool refresh_busy = false;
  bool refresh_give_up = false;
  bool operator==(const StepWishes&) const = default;
};

struct StepFigures {
  int64_t requests = 0;     // of all workers
  int64_t rows = 0;         // impressions, of all workers
  int64_t rows_pulled = 0;  // unique rows of all tables; of this worker
  RankerLosses losses;      // of all workers
  StepWishes wishes;        // of any worker, and so the same at all
  int64_t data_time = 0;    // of this worker's latest request, unix seconds; 0: it has none
  StepSeconds seconds;
};

// Single-threaded.
class Trainer {
 public:
  // `log`, `store` and `allreduce` must outlive the trainer; the allreduce's ranks are the workers
  // (null: this is the only one). `training` may be empty of requests: zero steps; with cuts,
  // config.train.epochs should be 1, or else an epoch grows with the log. Computes where
  // cluster.device says (worker/device.h); `local_rank` is the worker's number on its machine.
  // kInvalidArgument: there is no such device; kResourceExhausted: its memory is full.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Trainer>> Create(
      const Config& config, const TrainingLog* log, EmbeddingStore* store, const Segments& training,
      Allreduce* allreduce = nullptr, int64_t local_rank = 0);
  // Waits for what is under way, up to its deadlines.
  ~Trainer();

  int64_t total_steps() const { return total_steps_; }
  int64_t step() const { return step_; }  // the next one
  // Goes on at `step`, 0 <= step <= total_steps() (the caller has restored weights and tables).
  [[nodiscard]] absl::Status Seek(int64_t step);

  // The codebook whose codes and alignment rows steps and scores use: version 0 after Create. What
  // was assembled, hinted or pulled ahead is dropped, and this worker's pushes are applied when it
  // returns; the next step assembles anew. All workers do, between the same steps, and none goes on
  // before all have (a pull that is dropped may wait for their pushes). With staleness > 0 the
  // steps that were pulled ahead see newer rows than they would have: as after Seek(step()).
  // `build`: what made it (worker/tables.h).
  [[nodiscard]] absl::Status UseCodebook(uint32_t version, uint32_t build);
  uint32_t codebook_version() const { return assembler_.codebook_version(); }
  // Content rows were put, with what this version knows unchanged: the next steps to be assembled
  // read them again.
  void ForgetContents() { assembler_.ForgetContents(); }

  // Performs one step; step() < total_steps(). All workers do, with the same step. `wishes`: of
  // this worker; they change nothing of the step. kDataLoss: the loss is not finite (step named);
  // kResourceExhausted: the device's memory is full; errors of the store and of the allreduce.
  // After an error the trainer is of no use.
  [[nodiscard]] absl::StatusOr<StepFigures> Step(StepWishes wishes = {});

  // From now on, or no more, this worker notes which rows of prefixes it has pushed gradients of.
  void NotePrefixes(bool on);
  // Their keys, of `step` and later steps; ascending.
  std::vector<uint64_t> PrefixesPushedSince(int64_t step) const;

  // The time of this worker's latest request of the step before step(), unix seconds; without such
  // a step or request, the beginning of the training period.
  [[nodiscard]] absl::StatusOr<int64_t> DataTime();

  // Waits until this worker's pushes of all steps so far are applied. Before a commit; after the
  // last step, and one after which all stop, Step has done so.
  [[nodiscard]] absl::Status Settle();

  // Scores all requests of `period` in time order. Leaves no trace in tables or weights.
  [[nodiscard]] absl::StatusOr<Predictions> Predict(Period period);
  // The same, of every `workers`-th batch from batch `worker` on (worker/eval/prediction_share.h).
  [[nodiscard]] absl::StatusOr<PredictionShare> PredictShare(Period period, int64_t worker,
                                                             int64_t workers);

  // With eval.progressive: every step since Create or the last call, scored before it was learnt
  // from (this worker's slice of each batch, so that the shares of all merge in the order of
  // steps).
  PredictionShare TakeProgressive();
  bool progressive() const { return config_.eval.progressive; }
  // What TakeProgressive would take, in the order of steps.
  const Predictions& scored_so_far() const { return progressive_.predictions; }

  at::Device device() const { return device_; }
  DenseWeights& dense() { return ranker_.dense(); }
  // Of dense weights and moments: the same at all workers.
  uint64_t Digest() { return dense().Digest(); }

 private:
  // A step to come; its rows may be under way.
  struct Ahead {
    StepInputs in;
    std::optional<Ticket> pull;
  };

  Trainer(const Config& config, const TrainingLog* log, EmbeddingStore* store,
          const Segments& training, Allreduce* allreduce, at::Device device);
  absl::StatusOr<Batch> ReadBatch(int64_t step);
  absl::StatusOr<StepInputs> Load(int64_t step);
  absl::Status LookAhead(StepSeconds* seconds);
  absl::Status StartPulls(int64_t until);
  absl::Status FinishPull(Ahead& ahead);
  absl::Status ScoreBefore(const StepInputs& in);
  absl::Status Compute(const StepInputs& in, StepWishes wishes, RowGradients* grads,
                       StepFigures* figures);
  absl::Status StartPush(const StepInputs& in, const RowGradients& grads);
  absl::Status Sum(StepFigures* figures);
  static absl::Status CheckLosses(int64_t step, const RankerLosses& losses);
  void DropAhead();
  // Nothing is assembled, hinted, pulled or pushed when it returns.
  absl::Status DropUnderWay();
  Deadline NextDeadline() const;

  const Config config_;
  const TrainingLog* const log_;
  EmbeddingStore* const store_;
  const Segments training_;
  SoloAllreduce solo_;
  Allreduce* const allreduce_;
  const int64_t pulls_ahead_;  // steps beyond the one that computes whose pulls may be under way
  const at::Device device_;
  StepAssembler assembler_;
  Ranker ranker_;
  GradientBuckets buckets_;
  std::unique_ptr<BatchReader> reader_;  // of epoch_
  int64_t epoch_ = -1;
  int64_t steps_per_epoch_ = 0;
  int64_t total_steps_ = 0;
  int64_t step_ = 0;
  std::deque<Ahead> ahead_;  // steps step_, step_ + 1, ...: hinted, the first of them pulled, too
  std::optional<Ticket> push_;  // of the last step
  // Summed behind the gradients: losses, and how many workers have each wish.
  std::array<float, 8> totals_ = {};
  bool summing_ = false;  // started, not finished
  PredictionShare progressive_;
  bool noting_prefixes_ = false;
  absl::flat_hash_map<uint64_t, int64_t> pushed_prefixes_;  // key -> last step
};

}  // namespace savior
