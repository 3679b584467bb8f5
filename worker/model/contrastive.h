// InfoNCE over behaviour pairs with in-batch negatives: the loss of SaviorEnc and of the codebook.
//
//   L = - mean_a log( exp(cos(u_a, v_a) / tau) / sum_b exp(cos(u_a, v_b) / tau) )
//
// where b runs over a itself and the others that are not masked.
//
// Not negatives: other occurrences of a's target, a's trigger itself, and contents that are a pair
// with a's trigger in either direction.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"
#include "worker/model/pairs.h"

namespace savior {

struct PairBatch {
  std::vector<int64_t> triggers;  // [n] contents
  std::vector<int64_t> targets;   // [n]
  std::vector<int64_t>
      masked;  // positions a * n + b (a != b) in the [n, n] score matrix that are not negatives
};

// Draws pairs by their weight. Single-threaded.
class PairSampler {
 public:
  // `pairs` not empty, contents in [0, num_contents), weights > 0.
  PairSampler(std::span<const ContentPair> pairs, int64_t num_contents);

  PairBatch Draw(int n, Random* random);

 private:
  void Mask(PairBatch* batch);

  const std::vector<ContentPair> pairs_;
  std::vector<double> cumulative_;  // [pairs] of weights
  // Contents paired with c in either direction: neighbours_[offsets_[c] .. offsets_[c + 1]).
  std::vector<int64_t> offsets_;
  std::vector<int32_t> neighbours_;
  // Where a content is a target in the batch at hand: first_[c], then next_; -1 ends it.
  std::vector<int32_t> first_;  // [contents], -1 between draws
  std::vector<int32_t> next_;   // [n]
};

// triggers, targets [n, dim], any length; a scalar.
at::Tensor InfoNce(const at::Tensor& triggers, const at::Tensor& targets,
                   std::span<const int64_t> masked, double temperature);

// kInvalidArgument, naming the first pair that PairSampler would not take.
[[nodiscard]] absl::Status CheckPairs(std::span<const ContentPair> pairs, int64_t num_contents);

}  // namespace savior
