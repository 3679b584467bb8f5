#include "serving/request_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/random.h"
#include "serving/packed_product.h"
#include "worker/model/attention_kernel.h"

namespace savior {
namespace {

using Floats = std::vector<float>;

Floats Normals(int64_t n, Random* random) {
  Floats values(static_cast<size_t>(n));
  for (float& v : values) v = static_cast<float>(random->Normal());
  return values;
}

Floats InPanels(const Floats& rows, int64_t positions, int64_t width) {
  // One more value, which must stay.
  Floats panels(static_cast<size_t>(PaddedPositions(positions) * width) + 1, 7.0f);
  PackPanels(rows.data(), positions, width, 0, width, panels.data());
  EXPECT_EQ(panels.back(), 7.0f);
  return panels;
}

AttentionShape ShapeOf(int64_t candidates, int64_t positions) {
  AttentionShape shape;
  shape.row_offsets = {0, static_cast<int32_t>(candidates)};
  shape.history_offsets = {0, static_cast<int32_t>(positions)};
  return shape;
}

// Lengths around those of a panel and its half; hidden units around what is computed at once.
TEST(DinScores, AreThoseOfTheReferenceAfterTheSoftmax) {
  Random random(1);
  constexpr int64_t kCandidates = 3, kBehaviour = 5;
  for (const int64_t hidden : {1, 3, 4, 16, 21}) {
    for (const int64_t positions : {0, 1, 7, 8, 9, 15, 16, 17, 24, 25, 50}) {
      AttentionShape shape = ShapeOf(kCandidates, positions);
      shape.behaviour = kBehaviour;
      shape.hidden = hidden;
      const Floats query = Normals(kCandidates * kBehaviour, &random),
                   history = Normals(positions * kBehaviour, &random),
                   a = Normals(kCandidates * hidden, &random),
                   b = Normals(positions * hidden, &random),
                   product = Normals(hidden * kBehaviour, &random),
                   score = Normals(hidden, &random);
      Floats out(kCandidates * kBehaviour);
      Floats expected(static_cast<size_t>(kCandidates * positions));
      AttentionForward(shape,
                       {.query = query.data(),
                        .history = history.data(),
                        .query_hidden = a.data(),
                        .history_hidden = b.data(),
                        .product = product.data(),
                        .score = score.data()},
                       out.data(), expected.data());

      const Floats history_panels = InPanels(history, positions, kBehaviour);
      const Floats b_panels = InPanels(b, positions, hidden);
      const int64_t padded = PaddedPositions(positions);
      Floats scratch(static_cast<size_t>(hidden * kBehaviour));
      Floats scores(static_cast<size_t>(kCandidates * padded) + 1, 7.0f);
      DinScores({.candidates = kCandidates,
                 .positions = positions,
                 .behaviour = kBehaviour,
                 .hidden = hidden,
                 .query = query.data(),
                 .query_hidden = a.data(),
                 .product = product.data(),
                 .score = score.data(),
                 .history = history_panels.data(),
                 .history_hidden = b_panels.data()},
                scratch.data(), scores.data());
      SoftmaxPositions(kCandidates, positions, scores.data());
      EXPECT_EQ(scores.back(), 7.0f);
      for (int64_t n = 0; n < kCandidates; ++n) {
        for (int64_t t = 0; t < positions; ++t) {
          EXPECT_NEAR(scores[static_cast<size_t>(n * padded + t)],
                      expected[static_cast<size_t>(n * positions + t)], 2e-6)
              << hidden << " hidden, " << positions << " positions";
        }
      }
    }
  }
}

TEST(SoftmaxPositions, IsExactOverAllSizesOfScores) {
  Random random(2);
  for (const double scale : {1e-3, 1.0, 30.0, 1e4}) {
    for (const int64_t positions : {1, 16, 37}) {
      const int64_t padded = PaddedPositions(positions);
      Floats scores(static_cast<size_t>(padded), std::nanf(""));
      for (int64_t t = 0; t < positions; ++t) {
        scores[static_cast<size_t>(t)] = static_cast<float>(scale * random.Normal());
      }
      const float top = *std::max_element(scores.begin(), scores.begin() + positions);
      std::vector<double> expected;
      double sum = 0;
      for (int64_t t = 0; t < positions; ++t) {
        expected.push_back(std::exp(static_cast<double>(scores[static_cast<size_t>(t)] - top)));
        sum += expected.back();
      }
      SoftmaxPositions(1, positions, scores.data());
      for (int64_t t = 0; t < positions; ++t) {
        const double p = expected[static_cast<size_t>(t)] / sum;
        EXPECT_NEAR(scores[static_cast<size_t>(t)], p, 1e-6 * p + 1e-37) << scale;
      }
    }
  }
}

// Of unit vectors, zeros, and vectors that are equal: to the bit, or a position on the border of
// two bins would be in another.
TEST(PositionTiers, AreTheReferencesToTheBit) {
  Random random(3);
  for (const int64_t dim : {1, 5, 8, 15, 16, 17, 24, 31, 64, 100}) {
    for (const int64_t positions : {0, 1, 16, 50}) {
      for (const int64_t candidates : {1, 2, 21}) {
        // Very many bins show the last bits of a cosine.
        const int64_t bins = candidates == 2 ? 1 << 18 : 16;
        Floats query = Normals(candidates * dim, &random),
               history = Normals(positions * dim, &random);
        for (Floats* rows : {&query, &history}) {
          for (size_t row = 0; row < rows->size(); row += static_cast<size_t>(dim)) {
            const auto begin = rows->begin() + static_cast<int64_t>(row);
            float squares = 0;
            for (int64_t d = 0; d < dim; ++d) squares += begin[d] * begin[d];
            const float scale = random.Below(5) == 0 ? 0.0f : 1.0f / std::sqrt(squares);
            for (int64_t d = 0; d < dim; ++d) begin[d] *= scale;
          }
        }
        if (positions > 0) std::copy_n(query.begin(), dim, history.begin());
        Floats expected(static_cast<size_t>(candidates * bins)), tiers = expected;
        SimilarityTiers(ShapeOf(candidates, positions), dim, query.data(), history.data(), bins,
                        expected.data());
        const Floats panels = InPanels(history, positions, dim);
        Floats scratch(static_cast<size_t>((candidates + 1) * PaddedPositions(positions)) + 2);
        scratch.back() = 7.0f;
        PositionTiers(candidates, positions, dim, query.data(), panels.data(), bins, scratch.data(),
                      tiers.data());
        EXPECT_EQ(tiers, expected) << dim << " dim, " << positions << " positions";
        EXPECT_EQ(scratch.back(), 7.0f);
      }
    }
  }
}

}  // namespace
}  // namespace savior
