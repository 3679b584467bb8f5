// Rows of one codebook's alignment tables as rows of the next one's.
//
// The conditional mean (docs/refresh.md): with M_l[k', k] the weight of the contents that go from
// code k to code k' of level l,
//
//   A'_l[k'] = sum_k M_l[k', k] A_l[k] / (sum_k M_l[k', k] + lambda)
//
// so that a new code says what its contents were told on average, and one that few contents stand
// behind says little. Second moments get the same mean, first moments 0; numbers of updates are
// shared out, and none is lost.
//
// The others are ablation arms: index (A'[k] = A[k]), Hungarian (a permutation of codes that keeps
// the most weight), zero.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/store.h"

namespace savior {

enum class RemapKind { kConditionalMean, kHungarian, kIndex, kZero };

// M, [levels, codes new, codes old].
struct CodeJoint {
  size_t levels = 0;
  size_t codes = 0;
  std::vector<double> weight;

  double at(size_t level, size_t now, size_t before) const {
    return weight[(level * codes + now) * codes + before];
  }
};

// What a new row is made of, per level: new row k' = sum over k of share[k', k] old row k.
// [levels, codes new, codes old].
struct RemapShares {
  size_t levels = 0;
  size_t codes = 0;
  std::vector<double> share;
};
RemapShares SharesOf(const CodeJoint& joint, RemapKind kind, double lambda);

// rows [levels * codes, width] -> the same of the new codes.
std::vector<float> RemapRows(const RemapShares& shares, std::span<const float> rows, size_t width);

// Optimizer state [levels * codes, StateFloats] likewise: second moments by `shares`, first moments
// 0. FTRL's z goes by `shares`, since weights are a function of it.
std::vector<float> RemapState(const RemapShares& shares, OptimizerKind optimizer, uint32_t dim,
                              std::span<const float> state);

// Numbers of updates [levels * codes]: those of an old code are shared out to the new ones by the
// weight of its contents (codes without contents keep theirs), rounded so that each level keeps its
// sum.
std::vector<uint32_t> RemapCounts(const CodeJoint& joint, std::span<const uint32_t> counts);

}  // namespace savior
