// The linear assignment problem.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace savior {

// The permutation p of n that maximises sum_i value[i, p(i)] (Hungarian method with potentials,
// O(n^3)). value: [n, n], finite. Ties: the same p again for the same values.
std::vector<size_t> BestAssignment(std::span<const double> value, size_t n);

}  // namespace savior
