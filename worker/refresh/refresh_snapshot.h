// What a refresh of the codebook takes down while training stands still, at T0.
#pragma once

#include <cstdint>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "common/tensor_file.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/refresh/align_table.h"

namespace savior {

// What all workers build from, the same at all of them.
struct RefreshPlan {
  uint32_t version = 1;  // to build; the one in use is that less 1
  // Their builds (worker/tables.h); both 0 without model.prefix_ngrams.
  uint32_t build = 0, build_in_use = 0;
  int64_t step = 0;  // T0
  Period seen;       // of the data that it may learn from: until T0's time
};

// As of T0, of the lead.
struct RefreshSnapshot {
  AlignTable align;
  TensorFile dense;
  std::vector<int32_t> contents;  // sampled for distillation, the lead's own
  std::vector<float> own;         // [contents, dim] their own vectors, shrunk; hybrid only
  // Rows of prefixes of contents 0, 2, 4, ..., which distillation learns from: [(contents + 1) / 2,
  // levels - 1, dim]; empty where there are none, or nothing is distilled.
  std::vector<float> prefixes;
};

// Of the lead's store, while no push is under way.
[[nodiscard]] absl::StatusOr<RefreshSnapshot> TakeSnapshot(const TrainingLog& log,
                                                           const Config& config,
                                                           const RefreshPlan& plan,
                                                           uint32_t workers, TensorFile dense,
                                                           EmbeddingStore& store);

// Whether the model has a vector of its own for every content, beside the rows of its codes.
bool HasOwnVectors(const Config& config);

// Of a call of the store from now on (ps.timeout_s).
Deadline StoreDeadline(const Config& config);

// Whether rows are distilled: there is an alignment block, and refresh.remap says so.
bool Distils(const Config& config);

}  // namespace savior
