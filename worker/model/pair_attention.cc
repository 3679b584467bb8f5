#include "worker/model/pair_attention.h"

#include <c10/core/GradMode.h>

#include <limits>
#include <optional>
#include <tuple>

namespace savior {
namespace {

// embedding and embedding_bag rather than index_select and index_add: their backward passes add up
// fast and in a fixed order, on a GPU if told so (PickDevice).
at::Tensor Gather(const at::Tensor& table, const at::Tensor& indices) {
  return at::embedding(table, indices);
}

// [N, dim]: the sum of `values` at each row's positions, weighted.
at::Tensor WeightedSum(const Pairs& pairs, const at::Tensor& weights, const at::Tensor& values) {
  constexpr int64_t kSum = 0;
  return std::get<0>(at::embedding_bag(values, pairs.position, pairs.first,
                                       /*scale_grad_by_freq=*/false, kSum, /*sparse=*/false,
                                       weights));
}

// Of `scores` [P], over the pairs of each row.
at::Tensor Softmax(const Pairs& pairs, const at::Tensor& scores) {
  const auto reduce = [&pairs](const at::Tensor& data, c10::string_view how, double initial) {
    return at::segment_reduce(data, how, pairs.count, {}, {}, /*axis=*/0, /*unsafe=*/true, initial);
  };
  // The shift cancels: it has no gradient.
  const at::Tensor most = reduce(scores.detach(), "max", -std::numeric_limits<double>::infinity());
  const at::Tensor e = at::exp(scores - most.index_select(0, pairs.row));
  const at::Tensor total = reduce(e, "sum", 0.0);
  return e / Gather(total.unsqueeze(1), pairs.row).squeeze(1);
}

}  // namespace

Pairs PairsOf(const at::Tensor& history_begin, const at::Tensor& history_length, int64_t pairs) {
  const c10::NoGradGuard no_grad;
  Pairs p;
  p.count = history_length;
  p.first = history_length.cumsum(0) - history_length;
  p.row = at::repeat_interleave(history_length, std::optional<int64_t>(pairs));
  p.position =
      at::arange(pairs, history_begin.options()) + (history_begin - p.first).index_select(0, p.row);
  return p;
}

RowHistories HistoriesOf(const std::vector<int32_t>& row_offsets,
                         const std::vector<int32_t>& history_offsets) {
  RowHistories histories;
  for (size_t r = 0; r + 1 < row_offsets.size(); ++r) {
    const auto rows = static_cast<size_t>(row_offsets[r + 1] - row_offsets[r]);
    const int64_t begin = history_offsets[r], length = history_offsets[r + 1] - begin;
    histories.begin.insert(histories.begin.end(), rows, begin);
    histories.length.insert(histories.length.end(), rows, length);
    histories.pairs += static_cast<int64_t>(rows) * length;
  }
  return histories;
}

at::Tensor PairAttention(const Pairs& pairs, bool modal, const AttentionTensors& in) {
  const at::Tensor products = Gather(in.query, pairs.row) * Gather(in.history, pairs.position);
  const at::Tensor hidden =
      at::relu(Gather(in.query_hidden, pairs.row) + Gather(in.history_hidden, pairs.position) +
               at::matmul(products, in.product.t()));
  const at::Tensor p_b = Softmax(pairs, at::matmul(hidden, in.score));
  if (!modal) return WeightedSum(pairs, p_b, in.history);
  const at::Tensor p_m = Softmax(
      pairs, (Gather(in.query_modal, pairs.row) * Gather(in.history_modal, pairs.position)).sum(1));
  return at::cat({WeightedSum(pairs, p_m, in.history_modal), WeightedSum(pairs, p_m, in.history),
                  WeightedSum(pairs, p_b, in.history_modal), WeightedSum(pairs, p_b, in.history)},
                 1);
}

at::Tensor PairSimilarityTiers(const Pairs& pairs, const at::Tensor& query,
                               const at::Tensor& history, int64_t bins) {
  const c10::NoGradGuard no_grad;
  const at::Tensor similarity = (Gather(query, pairs.row) * Gather(history, pairs.position)).sum(1);
  const at::Tensor bin =
      ((similarity + 1.0) * (0.5 * static_cast<double>(bins))).to(at::kLong).clamp(0, bins - 1);
  // Atomic on a GPU, but counts are exact: any order gives the same bits.
  const at::Tensor counts = at::zeros({query.size(0) * bins}, query.options())
                                .scatter_add_(0, pairs.row * bins + bin, at::ones_like(similarity));
  return at::log1p(counts).view({query.size(0), bins});
}

}  // namespace savior
