// Principal components from a stream of rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace savior {

struct Components {
  std::vector<float> mean;   // [dim]
  std::vector<float> basis;  // [dim, keep]: columns orthonormal, by falling variance
};

// Sums first and second moments in double. Single-threaded; memory dim^2.
class PrincipalComponents {
 public:
  explicit PrincipalComponents(int dim);

  // rows [n, dim]
  void Add(std::span<const float> rows);

  int64_t rows() const { return rows_; }

  // The `keep` (1..dim) directions of largest variance about the mean; about zero if not `centred`,
  // or if there are fewer than two rows. Each direction's largest component is positive (ties: the
  // first), so that equal moments give equal signs.
  Components Find(int keep, bool centred) const;

 private:
  const int dim_;
  int64_t rows_ = 0;
  std::vector<double> sum_;     // [dim]
  std::vector<double> second_;  // [dim, dim] sum of x x^T
};

}  // namespace savior
