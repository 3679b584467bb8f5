#include "common/finite.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "common/simd.h"

namespace savior {
namespace {

// The largest magnitude's bits: infinity above all numbers, NaN above infinity. An integer maximum
// vectorises, a search with an exit does not.
SAVIOR_SIMD uint32_t LargestBits(const float* values, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  }
  return largest;
}

}  // namespace

bool AllWithin(std::span<const float> values, float max) {
  return LargestBits(values.data(), values.size()) <= std::bit_cast<uint32_t>(max);
}

}  // namespace savior
