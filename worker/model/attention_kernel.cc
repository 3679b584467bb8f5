#include "worker/model/attention_kernel.h"

#include <algorithm>
#include <cmath>

#include "common/simd.h"

namespace savior {
namespace {

SAVIOR_INLINE float Dot(const float* a, const float* b, int64_t n) {
  // Sixteen partial sums: fixed order whatever the vector width, and wide enough to keep the units
  // busy.
  float sums[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (int64_t j = 0; i < n; ++i, ++j) sums[j] += a[i] * b[i];
  float total = 0.0f;
  for (const float sum : sums) total += sum;
  return total;
}

SAVIOR_INLINE void AddScaled(float* __restrict to, float scale, const float* __restrict from,
                             int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += scale * from[i];
}

SAVIOR_INLINE void Softmax(float* scores, int64_t n) {
  float top = scores[0];
  for (int64_t t = 1; t < n; ++t) top = std::max(top, scores[t]);
  float sum = 0.0f;
  for (int64_t t = 0; t < n; ++t) sum += scores[t] = std::exp(scores[t] - top);
  const float scale = 1.0f / sum;
  for (int64_t t = 0; t < n; ++t) scores[t] *= scale;
}

// d p -> d s in place: ds = p * (dp - sum p dp).
SAVIOR_INLINE void SoftmaxBackward(const float* p, float* d, int64_t n) {
  float mean = 0.0f;
  for (int64_t t = 0; t < n; ++t) mean += p[t] * d[t];
  for (int64_t t = 0; t < n; ++t) d[t] = p[t] * (d[t] - mean);
}

// Scratch of one call: what one candidate needs, reused by all.
struct Scratch {
  explicit Scratch(const AttentionShape& s)
      : mixed(s.hidden * s.behaviour), hidden(s.hidden), d_mixed(s.hidden * s.behaviour) {
    int64_t longest = 0;
    for (size_t r = 0; r + 1 < s.history_offsets.size(); ++r) {
      longest = std::max<int64_t>(longest, s.history_offsets[r + 1] - s.history_offsets[r]);
    }
    d_modal.resize(longest);
    d_behaviour.resize(longest);
  }
  // P diag(q), transposed: [behaviour, hidden], so that the inner loop runs over hidden.
  std::vector<float> mixed;
  std::vector<float> hidden;                // [hidden]
  std::vector<float> d_mixed;               // [behaviour, hidden]
  std::vector<float> d_modal, d_behaviour;  // [longest history] gradients of p, then of s
};

SAVIOR_INLINE void MixProduct(const AttentionShape& s, const AttentionInputs& in,
                              const float* query, float* mixed) {
  for (int64_t h = 0; h < s.hidden; ++h) {
    for (int64_t d = 0; d < s.behaviour; ++d) {
      mixed[d * s.hidden + h] = in.product[h * s.behaviour + d] * query[d];
    }
  }
}

// hidden = a + b + mixed^T h, before the relu.
SAVIOR_INLINE void DinHidden(const AttentionShape& s, const float* a, const float* b,
                             const float* mixed, const float* h, float* hidden) {
  for (int64_t k = 0; k < s.hidden; ++k) hidden[k] = a[k] + b[k];
  for (int64_t d = 0; d < s.behaviour; ++d) AddScaled(hidden, h[d], mixed + d * s.hidden, s.hidden);
}

SAVIOR_INLINE float ReluDot(const float* hidden, const float* w, int64_t n) {
  float total = 0.0f;
  for (int64_t k = 0; k < n; ++k) total += std::max(hidden[k], 0.0f) * w[k];
  return total;
}

// One candidate over positions [begin, end): fills its weights and its output row (zeroed by the
// caller).
SAVIOR_INLINE void ForwardRow(const AttentionShape& s, const AttentionInputs& in, int64_t n,
                              int64_t begin, int64_t end, Scratch& scratch, float* out,
                              float* p_modal, float* p_behaviour) {
  const int64_t length = end - begin;
  MixProduct(s, in, in.query + n * s.behaviour, scratch.mixed.data());
  for (int64_t t = 0; t < length; ++t) {
    DinHidden(s, in.query_hidden + n * s.hidden, in.history_hidden + (begin + t) * s.hidden,
              scratch.mixed.data(), in.history + (begin + t) * s.behaviour, scratch.hidden.data());
    p_behaviour[t] = ReluDot(scratch.hidden.data(), in.score, s.hidden);
  }
  Softmax(p_behaviour, length);
  if (s.modal == 0) {
    for (int64_t t = 0; t < length; ++t) {
      AddScaled(out, p_behaviour[t], in.history + (begin + t) * s.behaviour, s.behaviour);
    }
    return;
  }
  for (int64_t t = 0; t < length; ++t) {
    p_modal[t] =
        Dot(in.query_modal + n * s.modal, in.history_modal + (begin + t) * s.modal, s.modal);
  }
  Softmax(p_modal, length);
  const int64_t half = s.modal + s.behaviour;
  for (int64_t t = 0; t < length; ++t) {
    const float* m = in.history_modal + (begin + t) * s.modal;
    const float* h = in.history + (begin + t) * s.behaviour;
    AddScaled(out, p_modal[t], m, s.modal);
    AddScaled(out + s.modal, p_modal[t], h, s.behaviour);
    AddScaled(out + half, p_behaviour[t], m, s.modal);
    AddScaled(out + half + s.modal, p_behaviour[t], h, s.behaviour);
  }
}

// Through the values: gradients of m and h, and of the softmax weights into scratch.d_modal and
// d_behaviour.
SAVIOR_INLINE void BackwardValues(const AttentionShape& s, const AttentionInputs& in, int64_t begin,
                                  int64_t length, const float* p_modal, const float* p_behaviour,
                                  const float* d_out, const AttentionGradients& g,
                                  Scratch& scratch) {
  const int64_t half = s.modal + s.behaviour;
  for (int64_t t = 0; t < length; ++t) {
    const float* h = in.history + (begin + t) * s.behaviour;
    float* d_h = g.history + (begin + t) * s.behaviour;
    if (s.modal == 0) {
      scratch.d_behaviour[t] = Dot(d_out, h, s.behaviour);
      AddScaled(d_h, p_behaviour[t], d_out, s.behaviour);
      continue;
    }
    const float* m = in.history_modal + (begin + t) * s.modal;
    float* d_m = g.history_modal + (begin + t) * s.modal;
    scratch.d_modal[t] = Dot(d_out, m, s.modal) + Dot(d_out + s.modal, h, s.behaviour);
    scratch.d_behaviour[t] =
        Dot(d_out + half, m, s.modal) + Dot(d_out + half + s.modal, h, s.behaviour);
    AddScaled(d_m, p_modal[t], d_out, s.modal);
    AddScaled(d_m, p_behaviour[t], d_out + half, s.modal);
    AddScaled(d_h, p_modal[t], d_out + s.modal, s.behaviour);
    AddScaled(d_h, p_behaviour[t], d_out + half + s.modal, s.behaviour);
  }
}

// Through the DIN scorer, recomputing its hidden layer. scratch.d_behaviour holds ds.
SAVIOR_INLINE void BackwardDin(const AttentionShape& s, const AttentionInputs& in, int64_t n,
                               int64_t begin, int64_t length, const AttentionGradients& g,
                               Scratch& scratch) {
  float* hidden = scratch.hidden.data();
  const float* query = in.query + n * s.behaviour;
  MixProduct(s, in, query, scratch.mixed.data());
  std::fill(scratch.d_mixed.begin(), scratch.d_mixed.end(), 0.0f);
  for (int64_t t = 0; t < length; ++t) {
    const float* h = in.history + (begin + t) * s.behaviour;
    float* d_h = g.history + (begin + t) * s.behaviour;
    DinHidden(s, in.query_hidden + n * s.hidden, in.history_hidden + (begin + t) * s.hidden,
              scratch.mixed.data(), h, hidden);
    const float ds = scratch.d_behaviour[t];
    for (int64_t k = 0; k < s.hidden; ++k) {
      g.score[k] += ds * std::max(hidden[k], 0.0f);
      hidden[k] = hidden[k] > 0.0f ? ds * in.score[k] : 0.0f;  // from here on: d hidden
    }
    AddScaled(g.query_hidden + n * s.hidden, 1.0f, hidden, s.hidden);
    AddScaled(g.history_hidden + (begin + t) * s.hidden, 1.0f, hidden, s.hidden);
    for (int64_t d = 0; d < s.behaviour; ++d) {
      AddScaled(scratch.d_mixed.data() + d * s.hidden, h[d], hidden, s.hidden);
      d_h[d] += Dot(hidden, scratch.mixed.data() + d * s.hidden, s.hidden);
    }
  }
  for (int64_t d = 0; d < s.behaviour; ++d) {
    const float* d_mixed = scratch.d_mixed.data() + d * s.hidden;
    float d_query = 0.0f;
    for (int64_t k = 0; k < s.hidden; ++k) {
      g.product[k * s.behaviour + d] += d_mixed[k] * query[d];
      d_query += d_mixed[k] * in.product[k * s.behaviour + d];
    }
    g.query[n * s.behaviour + d] += d_query;
  }
}

SAVIOR_INLINE void BackwardRow(const AttentionShape& s, const AttentionInputs& in, int64_t n,
                               int64_t begin, int64_t length, const float* p_modal,
                               const float* p_behaviour, const float* d_out,
                               const AttentionGradients& g, Scratch& scratch) {
  BackwardValues(s, in, begin, length, p_modal, p_behaviour, d_out, g, scratch);
  SoftmaxBackward(p_behaviour, scratch.d_behaviour.data(), length);
  BackwardDin(s, in, n, begin, length, g, scratch);
  if (s.modal == 0) return;
  SoftmaxBackward(p_modal, scratch.d_modal.data(), length);
  const float* query = in.query_modal + n * s.modal;
  for (int64_t t = 0; t < length; ++t) {
    AddScaled(g.query_modal + n * s.modal, scratch.d_modal[t],
              in.history_modal + (begin + t) * s.modal, s.modal);
    AddScaled(g.history_modal + (begin + t) * s.modal, scratch.d_modal[t], query, s.modal);
  }
}

}  // namespace

int64_t AttentionShape::pairs() const {
  int64_t total = 0;
  for (size_t r = 0; r + 1 < row_offsets.size(); ++r) {
    total += int64_t{row_offsets[r + 1] - row_offsets[r]} *
             (history_offsets[r + 1] - history_offsets[r]);
  }
  return total;
}

SAVIOR_SIMD void AttentionForward(const AttentionShape& shape, const AttentionInputs& in,
                                  float* out, float* weights) {
  Scratch scratch(shape);
  const int64_t sets = shape.modal == 0 ? 1 : 2;
  std::fill(out, out + shape.rows() * shape.out(), 0.0f);
  for (size_t r = 0; r + 1 < shape.row_offsets.size(); ++r) {
    const int64_t begin = shape.history_offsets[r], end = shape.history_offsets[r + 1];
    if (begin == end) continue;
    for (int64_t n = shape.row_offsets[r]; n < shape.row_offsets[r + 1]; ++n) {
      ForwardRow(shape, in, n, begin, end, scratch, out + n * shape.out(), weights,
                 weights + (sets - 1) * (end - begin));
      weights += sets * (end - begin);
    }
  }
}

SAVIOR_SIMD void AttentionBackward(const AttentionShape& shape, const AttentionInputs& in,
                                   const float* weights, const float* d_out,
                                   const AttentionGradients& grads) {
  Scratch scratch(shape);
  const int64_t sets = shape.modal == 0 ? 1 : 2;
  for (size_t r = 0; r + 1 < shape.row_offsets.size(); ++r) {
    const int64_t begin = shape.history_offsets[r], length = shape.history_offsets[r + 1] - begin;
    if (length == 0) continue;
    for (int64_t n = shape.row_offsets[r]; n < shape.row_offsets[r + 1]; ++n) {
      BackwardRow(shape, in, n, begin, length, weights, weights + (sets - 1) * length,
                  d_out + n * shape.out(), grads, scratch);
      weights += sets * length;
    }
  }
}

SAVIOR_SIMD void SimilarityTiers(const AttentionShape& shape, int64_t dim, const float* query,
                                 const float* history, int64_t bins, float* tiers) {
  std::fill(tiers, tiers + shape.rows() * bins, 0.0f);
  const float half = 0.5f * static_cast<float>(bins);
  for (size_t r = 0; r + 1 < shape.row_offsets.size(); ++r) {
    for (int64_t n = shape.row_offsets[r]; n < shape.row_offsets[r + 1]; ++n) {
      float* row = tiers + n * bins;
      for (int64_t t = shape.history_offsets[r]; t < shape.history_offsets[r + 1]; ++t) {
        const float similarity = Dot(query + n * dim, history + t * dim, dim);
        const auto bin = static_cast<int64_t>((similarity + 1.0f) * half);
        row[std::clamp<int64_t>(bin, 0, bins - 1)] += 1.0f;
      }
      for (int64_t b = 0; b < bins; ++b) row[b] = std::log1p(row[b]);
    }
  }
}

}  // namespace savior
