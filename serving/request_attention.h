// The ranker's attention and SimTier over one request, for inference: formulas as in
// worker/model/attention_kernel.h, whose kernels are this one's reference.
//
// Positions lie across the vector registers: the history is laid out once per request, and every
// candidate then scores 16 positions at a time. Reentrant, on the calling thread.
#pragma once

#include <cstdint>

#include "serving/panel.h"

namespace savior {

// Weights and score rows are as long as whole panels of positions.
constexpr int64_t PaddedPositions(int64_t positions) { return PanelsOf(positions) * kPanel; }

struct DinInputs {
  int64_t candidates = 0, positions = 0;  // C, T
  int64_t behaviour = 0, hidden = 0;
  const float* query = nullptr;           // [C, behaviour]
  const float* query_hidden = nullptr;    // a [C, hidden]
  const float* product = nullptr;         // P [hidden, behaviour]
  const float* score = nullptr;           // w [hidden]
  const float* history = nullptr;         // h in panels of positions (PackPanels)
  const float* history_hidden = nullptr;  // b likewise
};

// scores [C, PaddedPositions(T)] = w . relu(a + b + P (q * h)); what is beyond T has no meaning.
// `scratch` [hidden * behaviour].
void DinScores(const DinInputs& in, float* scratch, float* scores);

// Softmax over the first `positions` of every row, in place. scores [rows,
// PaddedPositions(positions)]. Weights are within 1e-6 of std::exp's, relatively.
void SoftmaxPositions(int64_t rows, int64_t positions, float* scores);

// tiers [C, bins] as SimilarityTiers': the cosines are its own bits, so that a position on the
// border of two bins is in the same. query [C, dim]; history [T, dim] in panels of positions.
// `scratch` [C * PaddedPositions(T) + T + 1].
void PositionTiers(int64_t candidates, int64_t positions, int64_t dim, const float* query,
                   const float* history, int64_t bins, float* scratch, float* tiers);

}  // namespace savior
