#include "worker/refresh/remap.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "worker/refresh/assignment.h"

namespace savior {

RemapShares SharesOf(const CodeJoint& joint, RemapKind kind, double lambda) {
  const size_t k = joint.codes;
  CHECK_EQ(joint.weight.size(), joint.levels * k * k);
  RemapShares shares{joint.levels, k, std::vector<double>(joint.weight.size())};
  for (size_t l = 0; l < joint.levels && kind != RemapKind::kZero; ++l) {
    const std::span<const double> weight = std::span(joint.weight).subspan(l * k * k, k * k);
    const std::span<double> share = std::span(shares.share).subspan(l * k * k, k * k);
    if (kind == RemapKind::kHungarian) {
      const std::vector<size_t> old_of = BestAssignment(weight, k);
      for (size_t now = 0; now < k; ++now) share[now * k + old_of[now]] = 1.0;
      continue;
    }
    for (size_t now = 0; now < k; ++now) {
      if (kind == RemapKind::kIndex) {
        share[now * k + now] = 1.0;
        continue;
      }
      const std::span<const double> from = weight.subspan(now * k, k);
      const double all = std::accumulate(from.begin(), from.end(), lambda);
      if (all <= 0.0) continue;
      for (size_t before = 0; before < k; ++before) share[now * k + before] = from[before] / all;
    }
  }
  return shares;
}

std::vector<float> RemapRows(const RemapShares& shares, std::span<const float> rows, size_t width) {
  const size_t k = shares.codes;
  CHECK_EQ(rows.size(), shares.levels * k * width);
  std::vector<float> result(rows.size());
  std::vector<double> sum(width);
  for (size_t l = 0; l < shares.levels; ++l) {
    for (size_t now = 0; now < k; ++now) {
      std::ranges::fill(sum, 0.0);
      for (size_t before = 0; before < k; ++before) {
        const double share = shares.share[(l * k + now) * k + before];
        if (share == 0.0) continue;
        const std::span<const float> row = rows.subspan((l * k + before) * width, width);
        for (size_t d = 0; d < width; ++d) sum[d] += share * row[d];
      }
      for (size_t d = 0; d < width; ++d) {
        result[(l * k + now) * width + d] = static_cast<float>(sum[d]);
      }
    }
  }
  return result;
}

std::vector<float> RemapState(const RemapShares& shares, OptimizerKind optimizer, uint32_t dim,
                              std::span<const float> state) {
  const size_t rows = shares.levels * shares.codes;
  std::vector<float> result = RemapRows(shares, state, rows == 0 ? 0 : state.size() / rows);
  if (optimizer != OptimizerKind::kAdam) return result;
  for (size_t r = 0; r < rows; ++r)
    std::fill_n(result.begin() + static_cast<std::ptrdiff_t>(r * 2 * dim), dim, 0.0f);
  return result;
}

std::vector<uint32_t> RemapCounts(const CodeJoint& joint, std::span<const uint32_t> counts) {
  const size_t k = joint.codes;
  CHECK_EQ(counts.size(), joint.levels * k);
  std::vector<uint32_t> result(counts.size());
  for (size_t l = 0; l < joint.levels; ++l) {
    std::vector<double> share(k);
    for (size_t before = 0; before < k; ++before) {
      double all = 0.0;
      for (size_t now = 0; now < k; ++now) all += joint.at(l, now, before);
      const double count = counts[l * k + before];
      if (all <= 0.0) {
        share[before] += count;
        continue;
      }
      for (size_t now = 0; now < k; ++now) share[now] += count * joint.at(l, now, before) / all;
    }
    // Rounding running sums keeps the whole.
    double sum = 0.0;
    uint64_t given = 0;
    for (size_t now = 0; now < k; ++now) {
      sum += share[now];
      const auto until = static_cast<uint64_t>(std::llround(sum));
      result[l * k + now] = static_cast<uint32_t>(until - given);
      given = until;
    }
  }
  return result;
}

}  // namespace savior
