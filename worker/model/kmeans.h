// Nearest-code search and residual k-means, in plain C++.
//
// Deterministic: ties go to the lowest index, sums run in a fixed order in double, randomness comes
// from the seed. Equal bits on every x86 (no fused multiply-add, order independent of the vector
// width).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace savior {

// K codes to search. Immutable, thread-safe. Memory: twice the codes.
class CodeSearch {
 public:
  // `codes` [K, dim], copied; K >= 1.
  CodeSearch(std::span<const float> codes, int dim);

  int size() const { return size_; }
  std::span<const float> code(int32_t k) const {
    return std::span(codes_).subspan(static_cast<size_t>(k) * static_cast<size_t>(dim_),
                                     static_cast<size_t>(dim_));
  }

  struct Hit {
    int32_t code = 0;
    float distance = 0.0f;  // |x - e[code]|^2
  };
  // argmin_k |x - e[k]|^2, ties to the lowest k. x [dim], finite.
  Hit Nearest(std::span<const float> x) const;

 private:
  const int dim_;
  const int size_;
  const std::vector<float> codes_;  // [K, dim]
  std::vector<float>
      blocks_;  // [ceil(K / kBlock), dim, kBlock]; padded with codes that nothing is near to
};

struct KMeansOptions {
  int codes = 128;      // > 0
  int iterations = 50;  // Lloyd's, at most; ends early when no point changes its code
  uint64_t seed = 0;
};

struct KMeans {
  std::vector<float> centroids;     // [codes, dim]
  std::vector<int32_t> assignment;  // [n]
  double error = 0.0;               // weighted mean of the squared distances
};

// Weighted k-means: k-means++ start, Lloyd's iterations; a code without points is reseeded at the
// worst point of the code with the largest error. `points` [n, dim], n >= 1; `weights` [n] > 0 or
// empty (all 1). With fewer distinct points than codes the surplus codes repeat code 0: no point is
// ever nearest to them.
KMeans TrainKMeans(std::span<const float> points, int dim, std::span<const float> weights,
                   const KMeansOptions& options);

// k-means of the points, of what is left of them, and so on: [levels, codes, dim].
std::vector<float> TrainResidualKMeans(std::span<const float> points, int dim,
                                       std::span<const float> weights, int levels,
                                       const KMeansOptions& options);

// Walks down the levels: codes[l] = nearest to x, x -= that code. `x` [dim] becomes the rest,
// `codes` [levels].
void QuantiseResidual(std::span<const CodeSearch> levels, std::span<float> x,
                      std::span<int32_t> codes);

}  // namespace savior
