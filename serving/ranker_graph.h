// The ranker's inference graph (formulas: worker/model/ranker.h), for every arm (worker/arm.h).
//
// The MBA block is not in it: z~ depends on the item alone, so that whoever exports the item rows
// computes it once per item.
//
// Inputs, of which a graph has those that its arm and configuration use, and none of width zero:
//
//   user             [1, id_dim]
//   history_item     [T, id_dim]
//   history_aligned  [T, dim]              z~ (z, where the arm has no alignment); zeros for an
//   item
//                                          without a vector, here and below
//   history_content  [T, dim]              z, unit length: SimTier
//   history_features [T, F * feature_dim]  model.behaviour_features; feature by feature
//   item             [C, id_dim]
//   aligned          [C, dim]
//   content          [C, dim]              z: SimTier
//   features         [C, F * feature_dim]
//   context          [C, X * feature_dim]
//   numerics         [C, numerics]
//   codes            [C, levels * dim]     arm sid: rows of the align table, coarse to fine; with
//                                          model.prefix_ngrams [C, (levels + prefixes) * dim]: then
//                                          those of the prefix table, shortest first
//
// Outputs: p_ctr, p_cvr, p_ctcvr = p_ctr * p_cvr, each [C].
#pragma once

#include <cstdint>

#include "common/config.h"
#include "common/status.h"
#include "common/tensor_file.h"
#include "serving/graph.h"

namespace savior {

// Of the log that the model learned from.
struct RankerSizes {
  int64_t features = 0;  // F: categorical features of an item
  int64_t context = 0;   // X: and of an impression
  int64_t numerics = 0;
};

// `config`: resolved (LoadConfig). `dense`: a commit's dense.safetensors; what inference does not
// use (Adam's moments, the MBA block) is not looked at. kDataLoss: a weight is missing, of another
// shape than `config` and `sizes` say, or not finite (named).
[[nodiscard]] absl::StatusOr<Graph> RankerGraph(const Config& config, const RankerSizes& sizes,
                                                const TensorFile& dense);

}  // namespace savior
