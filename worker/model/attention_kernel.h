// Kernels of the bi-directional target attention (SaviorRec, Figure 2, right), jagged and grouped
// by request: all candidates of a request attend over one history, which is read once.
//
// For candidate n and position t of the same request, with two score sets and two value sets:
//
//   modal score     s_m = q_m[n] . m[t]                             (q_m: projected, scaled target)
//   behaviour score s_b = w . relu(a[n] + b[t] + P (q[n] * h[t]))   (DIN's scorer, see below)
//   p_m, p_b = softmax over t
//   out[n] = [ sum p_m m | sum p_m h | sum p_b m | sum p_b h ]
//            ModalTA       Modal2BehavTA Behav2ModalTA BehaviorTA
//
// DIN (Zhou et al. 2018) scores with an MLP over [q; h; q-h; q*h]. Its first layer, of four parts
// [Wq Wh Wd Wp], collapses exactly: (Wq+Wd) q + (Wh-Wd) h + Wp (q*h); a and b are the first two
// terms (with bias), computed once per candidate and once per position. The scorer's last bias
// cancels in the softmax and is left out.
//
// No LibTorch here. Single-threaded, deterministic; reentrant.
#pragma once

#include <cstdint>
#include <vector>

namespace savior {

inline constexpr int64_t kSimilarityTiers = 16;  // the ranker's bins

struct AttentionShape {
  int64_t modal = 0;      // length of m; 0: no modal scores, out = [ sum p_b h ] only
  int64_t behaviour = 0;  // length of h
  int64_t hidden = 0;     // of the DIN scorer
  // [R + 1]: the candidates of request r are [row_offsets[r], row_offsets[r + 1]), its positions
  // likewise.
  std::vector<int32_t> row_offsets;
  std::vector<int32_t> history_offsets;

  int64_t rows() const { return row_offsets.back(); }
  int64_t positions() const { return history_offsets.back(); }
  int64_t pairs() const;  // sum over requests of candidates * positions
  int64_t out() const { return modal == 0 ? behaviour : 2 * (modal + behaviour); }
};

// All row-major; N rows, T positions. Null where modal == 0.
struct AttentionInputs {
  const float* query_modal = nullptr;     // [N, modal]
  const float* history_modal = nullptr;   // [T, modal]
  const float* query = nullptr;           // [N, behaviour]
  const float* history = nullptr;         // [T, behaviour]
  const float* query_hidden = nullptr;    // a [N, hidden]
  const float* history_hidden = nullptr;  // b [T, hidden]
  const float* product = nullptr;         // P [hidden, behaviour]
  const float* score = nullptr;           // w [hidden]
};

// Same shapes as the inputs; added to, not overwritten.
struct AttentionGradients {
  float* query_modal = nullptr;
  float* history_modal = nullptr;
  float* query = nullptr;
  float* history = nullptr;
  float* query_hidden = nullptr;
  float* history_hidden = nullptr;
  float* product = nullptr;
  float* score = nullptr;
};

// out [N, shape.out()], overwritten (zeros for an empty history).
// `weights` [pairs * (modal ? 2 : 1)] is kept for the backward pass: per request and candidate, p_m
// of all positions, then p_b.
void AttentionForward(const AttentionShape& shape, const AttentionInputs& in, float* out,
                      float* weights);

// d_out [N, shape.out()].
void AttentionBackward(const AttentionShape& shape, const AttentionInputs& in, const float* weights,
                       const float* d_out, const AttentionGradients& grads);

// SimTier (histogram of similarities):
// tiers [N, bins] = log(1 + number of positions t with q[n] . m[t] in bin), where bins split [-1,
// 1] evenly; q [N, dim] and m [T, dim] of unit length (a zero vector has similarity 0).
void SimilarityTiers(const AttentionShape& shape, int64_t dim, const float* query,
                     const float* history, int64_t bins, float* tiers);

}  // namespace savior
