#include "ps/rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/half.h"
#include "common/random.h"
#include "common/simd.h"

// 16 random bits per weight: as many as bfloat16 drops of a float32, and more than float16's 13.
// The loops have no branches, so that they vectorise; drawing the bits costs one Mix per 4 weights.

namespace savior {
namespace {

// Weights whose random bits are drawn at a time; a multiple of 4.
constexpr size_t kGroup = 64;

constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kSmallestNormalHalf = 0x38800000u;  // 2^-14

// Not the stream of the row's initial weights, whatever `seed` is.
constexpr uint64_t kStream = HashName("rounding");

// What becomes of a weight whose magnitude has these bits, `rounded` being right if it is finite.
SAVIOR_INLINE uint32_t UnlessFinite(uint32_t magnitude, uint32_t rounded) {
  const uint32_t other = magnitude > kInfinity ? 0x7fc00000u : kInfinity;
  return magnitude < kInfinity ? rounded : other;
}

SAVIOR_SIMD void RoundToBfloat(const uint16_t* __restrict random, size_t n,
                               float* __restrict weights) {
  constexpr auto kMost = std::bit_cast<uint32_t>(kMaxBfloat);
  for (size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(weights[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    // The carry out of the 16 bits that go is one with the probability of their share of a step.
    const uint32_t rounded = std::min((magnitude + random[i]) & 0xffff0000u, kMost);
    weights[i] = std::bit_cast<float>((bits & 0x80000000u) | UnlessFinite(magnitude, rounded));
  }
}

SAVIOR_SIMD void RoundToHalf(const uint16_t* __restrict random, size_t n,
                             float* __restrict weights) {
  constexpr auto kMost = std::bit_cast<uint32_t>(kMaxHalf);
  for (size_t i = 0; i < n; ++i) {
    const auto bits = std::bit_cast<uint32_t>(weights[i]);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal = std::min((magnitude + (random[i] >> 3u)) & ~0x1fffu, kMost);
    // Below 2^-14 the steps are 2^-24 whatever the exponent: in fixed point, with 16 bits of a
    // step.
    const auto small = std::bit_cast<float>(std::min(magnitude, kSmallestNormalHalf));
    const int32_t steps = (static_cast<int32_t>(small * 0x1p40f) + random[i]) >> 16;
    const auto subnormal = std::bit_cast<uint32_t>(static_cast<float>(steps) * 0x1p-24f);
    const uint32_t rounded = magnitude < kSmallestNormalHalf ? subnormal : normal;
    weights[i] = std::bit_cast<float>((bits & 0x80000000u) | UnlessFinite(magnitude, rounded));
  }
}

float NearestHalf(float weight) {
  const float nearest = FloatOfHalf(HalfOf(weight));
  return std::isinf(nearest) && std::isfinite(weight) ? std::copysign(kMaxHalf, weight) : nearest;
}

float NearestBfloat(float weight) {
  const float nearest = FloatOfBfloat(BfloatOf(weight));
  return std::isinf(nearest) && std::isfinite(weight) ? std::copysign(kMaxBfloat, weight) : nearest;
}

}  // namespace

void RoundWeights(StoreDtype dtype, uint64_t seed, uint64_t key, uint32_t updates,
                  std::span<float> weights) {
  if (dtype == StoreDtype::kFloat32) return;
  static_assert(std::endian::native == std::endian::little, "which weight gets which 16 bits");
  Random random(MixTwo(seed ^ kStream, key), updates);
  uint16_t drawn[kGroup];
  for (size_t begin = 0; begin < weights.size(); begin += kGroup) {
    const size_t n = std::min(kGroup, weights.size() - begin);
    for (size_t i = 0; i < n; i += 4) {
      const uint64_t four = random();
      std::memcpy(drawn + i, &four, sizeof(four));
    }
    if (dtype == StoreDtype::kBfloat16) {
      RoundToBfloat(drawn, n, weights.data() + begin);
    } else {
      RoundToHalf(drawn, n, weights.data() + begin);
    }
  }
}

void RoundToNearest(StoreDtype dtype, std::span<float> weights) {
  if (dtype == StoreDtype::kFloat16) std::ranges::transform(weights, weights.begin(), NearestHalf);
  if (dtype == StoreDtype::kBfloat16) {
    std::ranges::transform(weights, weights.begin(), NearestBfloat);
  }
}

}  // namespace savior
