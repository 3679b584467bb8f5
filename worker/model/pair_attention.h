// The bi-directional target attention of attention_kernel.h in batched tensor operations, for
// devices without a fused kernel: every (candidate, position) of a request is a pair, and softmax
// and sums run over the pairs of a candidate. No loop over requests, no padding; autograd
// differentiates it.
//
// Memory: pairs * (hidden + 3 * behaviour + 2 * modal) floats, about, are kept for the backward
// pass. It is made of operations whose GPU kernels, too, add in a fixed order as far as LibTorch
// documents them (gathers and bags sort; none adds floats atomically).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "worker/model/attention.h"

namespace savior {

// Which pairs there are; int64 tensors of the device. P pairs, in the order of their rows.
struct Pairs {
  at::Tensor row;       // [P] ascending
  at::Tensor position;  // [P]
  at::Tensor first;     // [N] a row's first pair
  at::Tensor count;     // [N] a row's pairs: its request's positions; may be 0
};

// `history_begin`, `history_length` [N]: of the request of each row. `pairs` is the sum of
// `history_length`, known to the caller, so that the host need not wait for the device.
Pairs PairsOf(const at::Tensor& history_begin, const at::Tensor& history_length, int64_t pairs);

// What PairsOf takes, in host memory. Offsets as in AttentionShape.
struct RowHistories {
  std::vector<int64_t> begin, length;  // [N]
  int64_t pairs = 0;
};
RowHistories HistoriesOf(const std::vector<int32_t>& row_offsets,
                         const std::vector<int32_t>& history_offsets);

// As BiTargetAttention. `modal`: whether there are modal scores.
at::Tensor PairAttention(const Pairs& pairs, bool modal, const AttentionTensors& in);

// As SimilarityTiers: query [N, dim], history [T, dim] -> [N, bins].
at::Tensor PairSimilarityTiers(const Pairs& pairs, const at::Tensor& query,
                               const at::Tensor& history, int64_t bins);

}  // namespace savior
