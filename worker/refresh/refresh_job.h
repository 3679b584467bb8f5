// A worker's part in building the next codebook version beside training (docs/refresh.md).
//
//   T0      training stands still for a moment: the lead copies alignment rows and dense weights
//   build   the encoder, where it is refreshed, too, by the lead -> z of this worker's contents ->
//           codebook, by all workers -> z and codes into the content table, beside those in use;
//           rows of prefixes, by all workers (worker/refresh/prefix_remap.h)
//   lead    alignment rows of the new version: remapped, distilled, written; gates
//   end     all workers have the same verdict
//
// Nothing of this is read by training before the switch, and the next attempt writes all of it
// again (rows of prefixes under keys of its own: those of one that was given up stay, and nobody
// reads them). So given up at any instant, it has changed nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "worker/data/training_log.h"
#include "worker/group.h"
#include "worker/model/codebook.h"
#include "worker/model/encoder.h"
#include "worker/refresh/align_table.h"
#include "worker/refresh/codebook_build.h"
#include "worker/refresh/prefix_remap.h"
#include "worker/refresh/refresh_snapshot.h"
#include "worker/refresh/remap.h"

namespace savior {

struct RefreshFigures {
  BuildFigures build;
  // On contents that distillation has not seen; none where the codebook itself was refused.
  std::optional<double> preserved_r2;
  std::optional<double> z_moved;  // the encoder's: mean |z' - z|^2 over the lead's contents
  std::optional<double> auc_before, auc_after;  // replay of the last hours, with either version
  int64_t prefixes = 0;                         // rows of them that all workers made
  double cpu_s = 0;                             // of the lead's part
  double wall_s = 0;
};

struct RefreshResult {
  // The same at all workers. Not OK: why the new version is not to be used; kFailedPrecondition
  // names the gate, value and bound.
  absl::Status verdict;
  std::unique_ptr<Encoder> encoder;  // null: it stays
  // This worker's. Made of rows as they were in pushes of steps before `prefixes_since`, a step
  // that is the same at all workers, and may be in part of later ones.
  PrefixRemap prefixes;
  int64_t prefixes_since = 0;
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
  // Training's next step, as far as it has said.
  const std::atomic<int64_t>* step = nullptr;
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
// Likewise this worker's rows of prefixes that are made of one of `changed`, keys of rows that any
// worker has pushed gradients of in result.prefixes_since or later. Returns how many.
[[nodiscard]] absl::StatusOr<size_t> CarryPrefixesOver(const RefreshResult& result,
                                                       const Config& config,
                                                       const RefreshPlan& plan,
                                                       std::span<const uint64_t> changed,
                                                       EmbeddingStore& store);

}  // namespace savior
