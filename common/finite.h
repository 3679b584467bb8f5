// Whether values are finite, fast: an integer maximum vectorises, a search with an exit does not.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

namespace savior {

// The largest magnitude's bits: infinity above all numbers, NaN above infinity.
inline uint32_t LargestBits(std::span<const float> values) {
  uint32_t largest = 0;
  for (const float value : values) {
    largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  }
  return largest;
}

// Whether every |value| <= `max` (finite, >= 0); never with a NaN.
inline bool AllWithin(std::span<const float> values, float max) {
  return LargestBits(values) <= std::bit_cast<uint32_t>(max);
}

}  // namespace savior
