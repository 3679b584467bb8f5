// A worker's part in building the next codebook version beside training (docs/refresh.md).
//
//   T0      training stands still for a moment: the lead copies alignment rows and dense weights
//   build   the encoder, where it is refreshed, too, by the lead -> z of this worker's contents ->
//           codebook, by all workers -> z and codes into the content table, beside those in use
//   lead    alignment rows of the new version: remapped, distilled, written; gates
//   end     all workers have the same verdict
//
// Nothing of this is read by training before the switch, and all of it is written again by the next
// attempt: given up at any instant, it leaves no trace.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "common/tensor_file.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/group.h"
#include "worker/model/codebook.h"
#include "worker/model/encoder.h"
#include "worker/refresh/align_table.h"
#include "worker/refresh/codebook_build.h"
#include "worker/refresh/distil.h"
#include "worker/refresh/remap.h"

namespace savior {

// What all workers build from, the same at all of them.
struct RefreshPlan {
  uint32_t version = 1;  // to build; the one in use is that less 1
  int64_t step = 0;      // T0
  Period seen;           // of the data that it may learn from: until T0's time
};

// As of T0, of the lead.
struct RefreshSnapshot {
  AlignTable align;
  TensorFile dense;
  std::vector<int32_t> contents;  // sampled for distillation, the lead's own
  std::vector<float> own;         // [contents, dim] their own vectors, shrunk; hybrid only
};

// Of the lead's store, while no push is under way.
[[nodiscard]] absl::StatusOr<RefreshSnapshot> TakeSnapshot(const TrainingLog& log,
                                                           const Config& config,
                                                           const RefreshPlan& plan,
                                                           uint32_t workers, TensorFile dense,
                                                           EmbeddingStore& store);

struct RefreshFigures {
  BuildFigures build;
  double preserved_r2 = 0;        // on contents that distillation has not seen
  std::optional<double> z_moved;  // the encoder's: mean |z' - z|^2 over the lead's contents
  std::optional<double> auc_before, auc_after;  // replay of the last hours, with either version
  double cpu_s = 0;                             // of the lead's part
  double wall_s = 0;
};

struct RefreshResult {
  // The same at all workers. Not OK: why the new version is not to be used; kFailedPrecondition
  // names the gate, value and bound.
  absl::Status verdict;
  std::unique_ptr<Encoder> encoder;  // null: it stays
  // The lead's.
  std::unique_ptr<Codebook> codebook;
  CodeJoint joint;
  RemapShares shares;
  AlignTable from;  // the snapshot's
  AlignTable made;  // of it, distilled
  RefreshFigures figures;
};

// What a worker builds with. All outlive the job; `store` is for this thread
// (RunStore::background), `group` too.
struct RefreshWorker {
  const TrainingLog* log = nullptr;
  const Config* config = nullptr;
  EmbeddingStore* store = nullptr;
  Group* group = nullptr;
  // In use; the lead's.
  const Codebook* codebook = nullptr;
  const Encoder* encoder = nullptr;
};

// Blocks for as long as it takes; `give_up` ends it (kCancelled). Errors are this worker's own
// trouble, and leave the others waiting in the group: whoever gets one gives the job up everywhere.
[[nodiscard]] absl::StatusOr<RefreshResult> RunRefreshJob(const RefreshWorker& worker,
                                                          const RefreshPlan& plan,
                                                          std::optional<RefreshSnapshot> snapshot,
                                                          const std::atomic<bool>* give_up);

// The rows of the new version at the switch: the store's rows of the old one have gone on since T0.
// Written to `store`, the lead's, while no push is under way. `step`: the switch's.
[[nodiscard]] absl::Status CarryOver(const RefreshResult& result, const Config& config,
                                     uint32_t version, int64_t step, EmbeddingStore& store);

}  // namespace savior
