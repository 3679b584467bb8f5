// All alignment rows of one codebook version, whole: weights, optimizer state, numbers of updates.
#pragma once

#include <cstdint>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "worker/refresh/remap.h"

namespace savior {

struct AlignTable {
  size_t levels = 0, codes = 0, dim = 0, state = 0;
  std::vector<float> weights;     // [levels * codes, dim]
  std::vector<float> states;      // [levels * codes, state]
  std::vector<uint32_t> updates;  // [levels * codes]; 0: the row is missing, and reads as zeros
};

// The rows of codebook `version` in `store`, a run's with `config`.
[[nodiscard]] absl::StatusOr<AlignTable> ReadAlignTable(EmbeddingStore& store, const Config& config,
                                                        uint32_t version, Deadline deadline);

// Replaces them, all of them: whatever an earlier version left in its slot is gone. `step`: the
// training step that they belong to. Idempotent.
[[nodiscard]] absl::Status WriteAlignTable(EmbeddingStore& store, uint32_t version, int64_t step,
                                           const AlignTable& table, Deadline deadline);

// `before` as rows of the next version (worker/refresh/remap.h).
AlignTable Remapped(const AlignTable& before, const RemapShares& shares, const CodeJoint& joint,
                    OptimizerKind optimizer);

// What `made` has to become when the rows that it was made of, `from`, have become `now`: weights
// move by the remapped difference; state and numbers of updates are those of `now`, remapped.
AlignTable CarriedOver(const AlignTable& made, const AlignTable& from, const AlignTable& now,
                       const RemapShares& shares, const CodeJoint& joint, OptimizerKind optimizer);

}  // namespace savior
