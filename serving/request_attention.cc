#include "serving/request_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "worker/model/attention_kernel.h"

namespace savior {
namespace {

// kUnits hidden units of one panel of positions, or of its first half (Lanes): added to `scores`
// after the relu.
template <typename Lanes, int kUnits>
SAVIOR_INLINE void AddUnits(const DinInputs& in, const float* a, const float* mixed, int64_t unit,
                            int64_t panel, Lanes* scores) {
  Lanes sums[kUnits];
  const float* const b = in.history_hidden + (panel * in.hidden + unit) * kPanel;
  for (int u = 0; u < kUnits; ++u) {
    std::memcpy(&sums[u], b + u * kPanel, sizeof(Lanes));
    sums[u] += a[unit + u];
  }
  const float* const h = in.history + panel * in.behaviour * kPanel;
  const float* const rows = mixed + unit * in.behaviour;
  for (int64_t d = 0; d < in.behaviour; ++d) {
    Lanes position;
    std::memcpy(&position, h + d * kPanel, sizeof(position));
#pragma GCC unroll 16
    for (int u = 0; u < kUnits; ++u) sums[u] += position * rows[u * in.behaviour + d];
  }
  const Lanes zero = {};
  for (int u = 0; u < kUnits; ++u) {
    *scores += (sums[u] > zero ? sums[u] : zero) * in.score[unit + u];
  }
}

// kMost: as many units as the registers hold.
template <typename Lanes, int kMost>
SAVIOR_INLINE void ScorePanel(const DinInputs& in, const float* a, const float* mixed,
                              int64_t panel, float* scores) {
  Lanes sum = {};
  int64_t unit = 0;
  for (; unit + kMost <= in.hidden; unit += kMost) {
    AddUnits<Lanes, kMost>(in, a, mixed, unit, panel, &sum);
  }
  for (; unit < in.hidden; ++unit) AddUnits<Lanes, 1>(in, a, mixed, unit, panel, &sum);
  std::memcpy(scores + panel * kPanel, &sum, sizeof(sum));
}

template <int kMost>
SAVIOR_INLINE void Din(const DinInputs& in, float* mixed, float* scores) {
  const int64_t panels = PanelsOf(in.positions);
  const bool half = panels > 0 && in.positions - (panels - 1) * kPanel <= kPanel / 2;
  for (int64_t n = 0; n < in.candidates; ++n, scores += panels * kPanel) {
    const float* const q = in.query + n * in.behaviour;
    for (int64_t u = 0; u < in.hidden; ++u) {
      for (int64_t d = 0; d < in.behaviour; ++d) {
        mixed[u * in.behaviour + d] = in.product[u * in.behaviour + d] * q[d];
      }
    }
    const float* const a = in.query_hidden + n * in.hidden;
    for (int64_t panel = 0; panel < panels - (half ? 1 : 0); ++panel) {
      ScorePanel<Panel, kMost>(in, a, mixed, panel, scores);
    }
    if (half) ScorePanel<HalfPanel, kMost>(in, a, mixed, panels - 1, scores);
  }
}

void DinBaseline(const DinInputs& in, float* mixed, float* scores) { Din<2>(in, mixed, scores); }
SAVIOR_AVX2 void DinAvx2(const DinInputs& in, float* mixed, float* scores) {
  Din<4>(in, mixed, scores);
}
SAVIOR_AVX512 void DinAvx512(const DinInputs& in, float* mixed, float* scores) {
  Din<16>(in, mixed, scores);
}

// e^x for x <= 0, as 2^n e^r with |r| <= ln 2 / 2 (Cephes' polynomial); below e^-87: about that.
SAVIOR_INLINE Panel Exp(const Panel& score) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Panel least = Panel{} - 87.0f;
  const Panel x = score > least ? score : least;
  const Panel n = (x * 1.44269504088896341f + kRound) - kRound;
  const Panel r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Panel y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const IntPanel power = (__builtin_convertvector(n, IntPanel) + 127) << 23;
  Panel scale;
  std::memcpy(&scale, &power, sizeof(scale));
  return y * scale;
}

// Of all lanes, by halves.
template <typename Combine>
SAVIOR_INLINE float Reduce(const Panel& panel, Combine combine) {
  float lanes[kPanel];
  StorePanel(lanes, panel);
  for (int64_t half = kPanel / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) {
      lanes[lane] = combine(lanes[lane], lanes[lane + half]);
    }
  }
  return lanes[0];
}

SAVIOR_INLINE void Softmax(int64_t rows, int64_t positions, float* scores) {
  const int64_t padded = PaddedPositions(positions);
  for (int64_t row = 0; row < rows; ++row, scores += padded) {
    for (int64_t t = positions; t < padded; ++t) scores[t] = std::numeric_limits<float>::lowest();
    Panel most = LoadPanel(scores);
    for (int64_t t = kPanel; t < padded; t += kPanel) {
      const Panel x = LoadPanel(scores + t);
      most = x > most ? x : most;
    }
    const float top = Reduce(most, [](float a, float b) { return a > b ? a : b; });
    Panel sums = {};
    for (int64_t t = 0; t < padded; t += kPanel) {
      const Panel p = Exp(LoadPanel(scores + t) - top);
      sums += p;  // e^-87 of what is beyond the last position is nothing beside the top's 1
      StorePanel(scores + t, p);
    }
    const float sum = Reduce(sums, [](float a, float b) { return a + b; });
    const float scale = 1.0f / sum;
    for (int64_t t = 0; t < padded; t += kPanel)
      StorePanel(scores + t, LoadPanel(scores + t) * scale);
  }
}

void SoftmaxBaseline(int64_t rows, int64_t positions, float* scores) {
  Softmax(rows, positions, scores);
}
SAVIOR_AVX2 void SoftmaxAvx2(int64_t rows, int64_t positions, float* scores) {
  Softmax(rows, positions, scores);
}
SAVIOR_AVX512 void SoftmaxAvx512(int64_t rows, int64_t positions, float* scores) {
  Softmax(rows, positions, scores);
}

// Cosines of kQueries candidates with one panel of positions, summed up in the order of the
// reference: sixteen partial sums over d % 16, then those one after the other. Eight partial sums
// at a time: more would not fit the registers.
template <int kQueries>
SAVIOR_INLINE void PanelCosines(int64_t dim, const float* q, const float* m, int64_t stride,
                                float* cosines) {
  constexpr int64_t kSums = 16, kHalf = 8;
  Panel totals[kQueries] = {};
  for (int64_t first = 0; first < kSums; first += kHalf) {
    Panel sums[kQueries][kHalf] = {};
    for (int64_t d = first; d < dim; d += kSums) {
      // The tail is unrolled as well: with an index that varies, the sums would lie in memory.
#pragma GCC unroll 8
      for (int64_t j = 0; j < kHalf; ++j) {
        if (d + j >= dim) continue;
        const Panel position = LoadPanel(m + (d + j) * kPanel);
#pragma GCC unroll 2
        for (int n = 0; n < kQueries; ++n) sums[n][j] += position * q[n * dim + d + j];
      }
    }
#pragma GCC unroll 8
    for (int64_t j = 0; j < kHalf; ++j) {
      for (int n = 0; n < kQueries; ++n) totals[n] += sums[n][j];
    }
  }
  for (int n = 0; n < kQueries; ++n) StorePanel(cosines + n * stride, totals[n]);
}

// cosines [candidates, PaddedPositions(positions)].
SAVIOR_INLINE void Cosines(int64_t candidates, int64_t positions, int64_t dim, const float* q,
                           const float* history, float* cosines) {
  const int64_t stride = PaddedPositions(positions);
  for (int64_t panel = 0; panel < PanelsOf(positions); ++panel) {
    const float* const m = history + panel * dim * kPanel;
    int64_t n = 0;
    for (; n + 2 <= candidates; n += 2) {
      PanelCosines<2>(dim, q + n * dim, m, stride, cosines + n * stride + panel * kPanel);
    }
    if (n < candidates) {
      PanelCosines<1>(dim, q + n * dim, m, stride, cosines + n * stride + panel * kPanel);
    }
  }
}

void CosinesBaseline(int64_t candidates, int64_t positions, int64_t dim, const float* q,
                     const float* history, float* cosines) {
  Cosines(candidates, positions, dim, q, history, cosines);
}
SAVIOR_AVX2 void CosinesAvx2(int64_t candidates, int64_t positions, int64_t dim, const float* q,
                             const float* history, float* cosines) {
  Cosines(candidates, positions, dim, q, history, cosines);
}
SAVIOR_AVX512 void CosinesAvx512(int64_t candidates, int64_t positions, int64_t dim, const float* q,
                                 const float* history, float* cosines) {
  Cosines(candidates, positions, dim, q, history, cosines);
}

// As before, but each product rounded before it is added.
#if defined(__GNUC__) && !defined(__clang__)
#define SAVIOR_UNFUSED __attribute__((optimize("fp-contract=off")))
SAVIOR_AVX2 SAVIOR_UNFUSED void UnfusedCosinesAvx2(int64_t candidates, int64_t positions,
                                                   int64_t dim, const float* q,
                                                   const float* history, float* cosines) {
  Cosines(candidates, positions, dim, q, history, cosines);
}
SAVIOR_AVX512 SAVIOR_UNFUSED void UnfusedCosinesAvx512(int64_t candidates, int64_t positions,
                                                       int64_t dim, const float* q,
                                                       const float* history, float* cosines) {
  Cosines(candidates, positions, dim, q, history, cosines);
}
#else
constexpr auto* UnfusedCosinesAvx2 = CosinesBaseline;
constexpr auto* UnfusedCosinesAvx512 = CosinesBaseline;
#endif

// Whether the reference, as compiled and chosen on this machine, fuses multiply and add: a product
// of 1 + 2^-11 + 2^-24, taken from 1 + 2^-11, leaves 0 only where it was rounded.
bool ReferenceFuses() {
  AttentionShape shape;
  shape.row_offsets = shape.history_offsets = {0, 1};
  constexpr int64_t kDim = 17, kBins = 2;  // the first and the last value share a partial sum
  float query[kDim] = {1.0f + 0x1p-11f}, history[kDim] = {1.0f}, tiers[kBins];
  query[kDim - 1] = 1.0f + 0x1p-12f;
  history[kDim - 1] = -(1.0f + 0x1p-12f);
  SimilarityTiers(shape, kDim, query, history, kBins, tiers);
  return tiers[0] > 0.0f;
}

using CosinesKernel = void(int64_t, int64_t, int64_t, const float*, const float*, float*);

CosinesKernel* ChooseCosines() {
  return ReferenceFuses()
             ? ForThisMachine(CosinesBaseline, CosinesAvx2, CosinesAvx512)
             : ForThisMachine(CosinesBaseline, UnfusedCosinesAvx2, UnfusedCosinesAvx512);
}

}  // namespace

void DinScores(const DinInputs& in, float* scratch, float* scores) {
  static auto* const kernel = ForThisMachine(DinBaseline, DinAvx2, DinAvx512);
  kernel(in, scratch, scores);
}

void SoftmaxPositions(int64_t rows, int64_t positions, float* scores) {
  static auto* const kernel = ForThisMachine(SoftmaxBaseline, SoftmaxAvx2, SoftmaxAvx512);
  if (positions > 0) kernel(rows, positions, scores);
}

void PositionTiers(int64_t candidates, int64_t positions, int64_t dim, const float* query,
                   const float* history, int64_t bins, float* scratch, float* tiers) {
  static CosinesKernel* const cosines_of = ChooseCosines();
  const int64_t stride = PaddedPositions(positions);
  const float* cosines = scratch;
  cosines_of(candidates, positions, dim, query, history, scratch);
  // A tier is log(1 + count), and counts are few.
  float* const log1p = scratch + candidates * stride;
  for (int64_t count = 0; count <= positions; ++count) {
    log1p[count] = std::log1p(static_cast<float>(count));
  }
  const float half = 0.5f * static_cast<float>(bins);
  std::fill_n(tiers, candidates * bins, 0.0f);
  for (int64_t n = 0; n < candidates; ++n, tiers += bins, cosines += stride) {
    for (int64_t t = 0; t < positions; ++t) {
      const auto bin = static_cast<int64_t>((cosines[t] + 1.0f) * half);
      tiers[std::clamp<int64_t>(bin, 0, bins - 1)] += 1.0f;
    }
    for (int64_t b = 0; b < bins; ++b) tiers[b] = log1p[static_cast<int64_t>(tiers[b])];
  }
}

}  // namespace savior
