#include "worker/model/kmeans.h"

#include <glog/logging.h>

#include <algorithm>
#include <limits>

#include "common/random.h"
#include "common/simd.h"

namespace savior {
namespace {

// Codes compared at once: their distances fit the vector registers.
constexpr int kBlock = 32;

SAVIOR_SIMD int32_t NearestKernel(const float* __restrict x, int64_t dim,
                                  const float* __restrict blocks, int64_t num_blocks,
                                  float* best_distance) {
  int32_t best = 0;
  float least = std::numeric_limits<float>::infinity();
  for (int64_t b = 0; b < num_blocks; ++b) {
    float distances[kBlock] = {};
    const float* __restrict block = blocks + b * dim * kBlock;
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t k = 0; k < kBlock; ++k) {
        const float difference = x[d] - block[d * kBlock + k];
        distances[k] += difference * difference;
      }
    }
    for (int64_t k = 0; k < kBlock; ++k) {
      if (distances[k] < least) {  // strict: the lowest index keeps a tie
        least = distances[k];
        best = static_cast<int32_t>(b * kBlock + k);
      }
    }
  }
  *best_distance = least;
  return best;
}

// The points and their weights, with what every iteration needs of them.
class Lloyd {
 public:
  Lloyd(std::span<const float> points, int dim, std::span<const float> weights,
        const KMeansOptions& options)
      : points_(points),
        dim_(static_cast<size_t>(dim)),
        n_(points.size() / dim_),
        k_(static_cast<size_t>(options.codes)),
        weights_(weights),
        assignment_(n_, 0),
        distances_(n_, std::numeric_limits<float>::infinity()),
        centroids_(k_ * dim_) {
    PlusPlus(Random(options.seed, 1));
    Assign();
    for (int i = 0; i < options.iterations; ++i) {
      Update();
      if (!Assign()) break;
    }
  }

  KMeans Take() {
    double error = 0.0;
    double total = 0.0;
    for (size_t i = 0; i < n_; ++i) {
      error += weight(i) * distances_[i];
      total += weight(i);
    }
    return {std::move(centroids_), std::move(assignment_), error / total};
  }

 private:
  double weight(size_t i) const { return weights_.empty() ? 1.0 : weights_[i]; }
  std::span<const float> point(size_t i) const { return points_.subspan(i * dim_, dim_); }
  std::span<float> centroid(size_t k) { return std::span(centroids_).subspan(k * dim_, dim_); }

  // k-means++ (Arthur and Vassilvitskii, 2007): every next centre is drawn by its distance to those
  // before.
  void PlusPlus(Random random) {
    std::vector<double> mass(n_);
    for (size_t k = 0; k < k_; ++k) {
      double total = 0.0;
      for (size_t i = 0; i < n_; ++i)
        mass[i] = total += k == 0 ? weight(i) : weight(i) * distances_[i];
      if (total <= 0.0) {  // every point is a centre already
        for (; k < k_; ++k) std::ranges::copy(centroid(0), centroid(k).begin());
        return;
      }
      const double mark = random.Uniform() * total;
      const auto drawn = static_cast<size_t>(std::ranges::upper_bound(mass, mark) - mass.begin());
      std::ranges::copy(point(std::min(drawn, n_ - 1)), centroid(k).begin());
      const CodeSearch search(centroid(k), static_cast<int>(dim_));
      for (size_t i = 0; i < n_; ++i)
        distances_[i] = std::min(distances_[i], search.Nearest(point(i)).distance);
    }
  }

  // True if any point changed its code.
  bool Assign() {
    const CodeSearch search(centroids_, static_cast<int>(dim_));
    bool changed = false;
    for (size_t i = 0; i < n_; ++i) {
      const CodeSearch::Hit hit = search.Nearest(point(i));
      changed |= hit.code != assignment_[i];
      assignment_[i] = hit.code;
      distances_[i] = hit.distance;
    }
    return changed;
  }

  void Update() {
    std::vector<double> sums(k_ * dim_);
    std::vector<double> mass(k_);
    for (size_t i = 0; i < n_; ++i) {
      const auto k = static_cast<size_t>(assignment_[i]);
      mass[k] += weight(i);
      for (size_t d = 0; d < dim_; ++d) sums[k * dim_ + d] += weight(i) * points_[i * dim_ + d];
    }
    for (size_t k = 0; k < k_; ++k) {
      if (mass[k] <= 0.0) continue;
      for (size_t d = 0; d < dim_; ++d) {
        centroids_[k * dim_ + d] = static_cast<float>(sums[k * dim_ + d] / mass[k]);
      }
    }
    ReseedDead(mass);
  }

  // Gives each code without points the worst point of the code with the largest error.
  void ReseedDead(const std::vector<double>& mass) {
    if (std::ranges::all_of(mass, [](double m) { return m > 0.0; })) return;
    std::vector<double> errors(k_);
    for (size_t i = 0; i < n_; ++i)
      errors[static_cast<size_t>(assignment_[i])] += weight(i) * distances_[i];
    for (size_t dead = 0; dead < k_; ++dead) {
      if (mass[dead] > 0.0) continue;
      const auto worst_code =
          static_cast<size_t>(std::ranges::max_element(errors) - errors.begin());
      if (errors[worst_code] <=
          0.0) {  // fewer distinct points than codes: repeat code 0, which wins every tie
        std::ranges::copy(centroid(0), centroid(dead).begin());
        continue;
      }
      size_t worst = n_;
      for (size_t i = 0; i < n_; ++i) {
        if (static_cast<size_t>(assignment_[i]) != worst_code) continue;
        if (worst == n_ || weight(i) * distances_[i] > weight(worst) * distances_[worst]) worst = i;
      }
      std::ranges::copy(point(worst), centroid(dead).begin());
      errors[worst_code] -= weight(worst) * distances_[worst];
      distances_[worst] = 0.0f;
      if (errors[worst_code] < 1e-12) errors[worst_code] = 0.0;  // what rounding left
    }
  }

  const std::span<const float> points_;  // [n, dim]
  const size_t dim_;
  const size_t n_;
  const size_t k_;
  const std::span<const float> weights_;  // [n] or empty
  std::vector<int32_t> assignment_;       // [n]
  std::vector<float> distances_;          // [n] squared, to the nearest centroid
  std::vector<float> centroids_;          // [k, dim]
};

std::vector<float> ToBlocks(std::span<const float> codes, size_t dim) {
  const size_t k = codes.size() / dim;
  const size_t blocks = (k + kBlock - 1) / kBlock;
  std::vector<float> result(blocks * dim * kBlock, std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < k; ++i) {
    for (size_t d = 0; d < dim; ++d) {
      result[(i / kBlock * dim + d) * kBlock + i % kBlock] = codes[i * dim + d];
    }
  }
  return result;
}

}  // namespace

CodeSearch::CodeSearch(std::span<const float> codes, int dim)
    : dim_(dim),
      size_(static_cast<int>(codes.size() / static_cast<size_t>(dim))),
      codes_(codes.begin(), codes.end()),
      blocks_(ToBlocks(codes, static_cast<size_t>(dim))) {
  CHECK_GT(size_, 0);
}

CodeSearch::Hit CodeSearch::Nearest(std::span<const float> x) const {
  Hit hit;
  hit.code =
      NearestKernel(x.data(), dim_, blocks_.data(), (size_ + kBlock - 1) / kBlock, &hit.distance);
  return hit;
}

KMeans TrainKMeans(std::span<const float> points, int dim, std::span<const float> weights,
                   const KMeansOptions& options) {
  CHECK_GT(dim, 0);
  CHECK_GT(options.codes, 0);
  CHECK(!points.empty() && points.size() % static_cast<size_t>(dim) == 0);
  CHECK(weights.empty() || weights.size() * static_cast<size_t>(dim) == points.size());
  return Lloyd(points, dim, weights, options).Take();
}

std::vector<float> TrainResidualKMeans(std::span<const float> points, int dim,
                                       std::span<const float> weights, int levels,
                                       const KMeansOptions& options) {
  const auto width = static_cast<size_t>(dim);
  std::vector<float> residuals(points.begin(), points.end());
  std::vector<float> result;
  for (int level = 0; level < levels; ++level) {
    KMeansOptions own = options;
    own.seed = MixTwo(options.seed, static_cast<uint64_t>(level));
    const KMeans trained = TrainKMeans(residuals, dim, weights, own);
    for (size_t i = 0; i < trained.assignment.size(); ++i) {
      const float* code = &trained.centroids[static_cast<size_t>(trained.assignment[i]) * width];
      for (size_t d = 0; d < width; ++d) residuals[i * width + d] -= code[d];
    }
    result.insert(result.end(), trained.centroids.begin(), trained.centroids.end());
  }
  return result;
}

void QuantiseResidual(std::span<const CodeSearch> levels, std::span<float> x,
                      std::span<int32_t> codes) {
  for (size_t level = 0; level < levels.size(); ++level) {
    codes[level] = levels[level].Nearest(x).code;
    const std::span<const float> code = levels[level].code(codes[level]);
    for (size_t d = 0; d < x.size(); ++d) x[d] -= code[d];
  }
}

}  // namespace savior
