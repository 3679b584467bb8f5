#include "worker/model/contrastive.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace savior {

PairSampler::PairSampler(std::span<const ContentPair> pairs, int64_t num_contents)
    : pairs_(pairs.begin(), pairs.end()),
      cumulative_(pairs.size()),
      offsets_(static_cast<size_t>(num_contents) + 1),
      neighbours_(2 * pairs.size()),
      first_(static_cast<size_t>(num_contents), -1) {
  CHECK(!pairs.empty());
  double total = 0.0;
  for (size_t i = 0; i < pairs_.size(); ++i) cumulative_[i] = total += pairs_[i].weight;
  for (const ContentPair& pair : pairs_) {
    ++offsets_[static_cast<size_t>(pair.trigger) + 1];
    ++offsets_[static_cast<size_t>(pair.target) + 1];
  }
  for (size_t c = 1; c < offsets_.size(); ++c) offsets_[c] += offsets_[c - 1];
  std::vector<int64_t> next(offsets_.begin(), offsets_.end() - 1);
  for (const ContentPair& pair : pairs_) {
    neighbours_[static_cast<size_t>(next[static_cast<size_t>(pair.trigger)]++)] = pair.target;
    neighbours_[static_cast<size_t>(next[static_cast<size_t>(pair.target)]++)] = pair.trigger;
  }
}

PairBatch PairSampler::Draw(int n, Random* random) {
  PairBatch batch;
  for (int i = 0; i < n; ++i) {
    const double mark = random->Uniform() * cumulative_.back();
    const auto drawn =
        static_cast<size_t>(std::ranges::upper_bound(cumulative_, mark) - cumulative_.begin());
    const ContentPair& pair = pairs_[std::min(drawn, pairs_.size() - 1)];
    batch.triggers.push_back(pair.trigger);
    batch.targets.push_back(pair.target);
  }
  Mask(&batch);
  return batch;
}

void PairSampler::Mask(PairBatch* batch) {
  const auto n = static_cast<int32_t>(batch->targets.size());
  next_.assign(static_cast<size_t>(n), -1);
  for (int32_t b = n - 1; b >= 0; --b) {
    int32_t& first = first_[static_cast<size_t>(batch->targets[static_cast<size_t>(b)])];
    next_[static_cast<size_t>(b)] = first;
    first = b;
  }
  for (int32_t a = 0; a < n; ++a) {
    const auto mask = [&](int64_t content) {
      for (int32_t b = first_[static_cast<size_t>(content)]; b >= 0;
           b = next_[static_cast<size_t>(b)]) {
        if (b != a) batch->masked.push_back(int64_t{a} * n + b);
      }
    };
    const auto trigger = static_cast<size_t>(batch->triggers[static_cast<size_t>(a)]);
    mask(static_cast<int64_t>(trigger));
    // a's target is among these, so its other occurrences are masked too.
    for (int64_t i = offsets_[trigger]; i < offsets_[trigger + 1]; ++i)
      mask(neighbours_[static_cast<size_t>(i)]);
  }
  for (const int64_t target : batch->targets) first_[static_cast<size_t>(target)] = -1;
}

at::Tensor InfoNce(const at::Tensor& triggers, const at::Tensor& targets,
                   std::span<const int64_t> masked, double temperature) {
  namespace F = torch::nn::functional;
  const auto unit = F::NormalizeFuncOptions().dim(1).eps(1e-8);
  const at::Tensor scores =
      at::matmul(F::normalize(triggers, unit), F::normalize(targets, unit).t()) / temperature;
  at::Tensor mask = at::zeros(scores.numel(), at::kBool);
  for (const int64_t position : masked) mask.data_ptr<bool>()[position] = true;
  const at::Tensor kept =
      scores.masked_fill(mask.view(scores.sizes()), -std::numeric_limits<float>::infinity());
  return -at::log_softmax(kept, 1).diagonal().mean();
}

absl::Status CheckPairs(std::span<const ContentPair> pairs, int64_t num_contents) {
  for (size_t i = 0; i < pairs.size(); ++i) {
    const ContentPair& pair = pairs[i];
    const auto known = [&](int32_t content) { return content >= 0 && content < num_contents; };
    if (!known(pair.trigger) || !known(pair.target)) {
      return absl::InvalidArgumentError(absl::StrCat("pair ", i, " (", pair.trigger, " -> ",
                                                     pair.target, ") is not of the ", num_contents,
                                                     " contents"));
    }
    if (!(pair.weight > 0.0f && std::isfinite(pair.weight))) {
      return absl::InvalidArgumentError(
          absl::StrCat("pair ", i, " has weight ", pair.weight, ", not in (0, inf)"));
    }
  }
  return absl::OkStatus();
}

}  // namespace savior
