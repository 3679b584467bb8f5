#include "ps/rounding.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "common/half.h"
#include "common/random.h"

namespace savior {
namespace {

constexpr StoreDtype kDtypes[] = {StoreDtype::kFloat16, StoreDtype::kBfloat16};
constexpr float kInf = std::numeric_limits<float>::infinity();

float Stored(StoreDtype dtype, float value) {
  return dtype == StoreDtype::kFloat16 ? FloatOfHalf(HalfOf(value))
                                       : FloatOfBfloat(BfloatOf(value));
}

float Most(StoreDtype dtype) { return dtype == StoreDtype::kFloat16 ? kMaxHalf : kMaxBfloat; }

// The finite values of the dtype, by their 16 bits.
std::vector<float> AllValues(StoreDtype dtype) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = dtype == StoreDtype::kFloat16 ? FloatOfHalf(half) : FloatOfBfloat(half);
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

// Floats of all magnitudes and both signs.
std::vector<float> FloatsOfAllMagnitudes() {
  std::vector<float> values;
  Random random(4);
  for (int i = 0; i < 200'000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

TEST(Bfloat, IsTheNearestWithTiesToEven) {
  for (const float value : FloatsOfAllMagnitudes()) {
    const float nearest = FloatOfBfloat(BfloatOf(value));
    const auto bits = std::bit_cast<uint32_t>(value);
    const auto below = std::bit_cast<float>(bits & 0xffff0000u);  // in magnitude
    const auto above = std::bit_cast<float>((bits & 0xffff0000u) + 0x10000u);
    if (!std::isfinite(above)) continue;
    const double down = std::abs(double{value} - below);
    const double up = std::abs(double{above} - value);
    if (down < up) {
      EXPECT_TRUE(SameBits(nearest, below)) << value;
    }
    if (up < down) {
      EXPECT_TRUE(SameBits(nearest, above)) << value;
    }
  }
  EXPECT_EQ(BfloatOf(1.00390625f), 0x3f80);  // 1 + 2^-8, between 1 and 1 + 2^-7: to even
  EXPECT_EQ(BfloatOf(1.01171875f), 0x3f82);  // 1 + 3 * 2^-8
  EXPECT_EQ(FloatOfBfloat(BfloatOf(kMaxBfloat)), kMaxBfloat);
  EXPECT_EQ(FloatOfBfloat(BfloatOf(std::numeric_limits<float>::max())), kInf);
  EXPECT_EQ(FloatOfBfloat(BfloatOf(-kInf)), -kInf);
  EXPECT_TRUE(SameBits(FloatOfBfloat(BfloatOf(-0.0f)), -0.0f));
  // NaN whose payload lies in the bits that go.
  EXPECT_TRUE(std::isnan(FloatOfBfloat(BfloatOf(std::bit_cast<float>(0x7f800001u)))));
  static_assert(FloatOfBfloat(BfloatOf(-2.5f)) == -2.5f);
}

TEST(Rounding, LeavesWhatTheDtypeHas) {
  for (const StoreDtype dtype : kDtypes) {
    const std::vector<float> values = AllValues(dtype);
    for (uint32_t updates = 1; updates < 5; ++updates) {
      std::vector<float> rounded = values;
      RoundWeights(dtype, 1, 2, updates, rounded);
      for (size_t i = 0; i < values.size(); ++i) ASSERT_TRUE(SameBits(rounded[i], values[i]));
      RoundToNearest(dtype, rounded);
      for (size_t i = 0; i < values.size(); ++i) ASSERT_TRUE(SameBits(rounded[i], values[i]));
    }
  }
}

TEST(Rounding, GivesOneOfTheTwoNeighboursAndNeverInfinity) {
  const std::vector<float> values = FloatsOfAllMagnitudes();
  for (const StoreDtype dtype : kDtypes) {
    std::vector<float> rounded = values;
    RoundWeights(dtype, 1, 2, 3, rounded);
    std::vector<float> nearest = values;
    RoundToNearest(dtype, nearest);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_TRUE(std::isfinite(rounded[i]) && std::isfinite(nearest[i])) << values[i];
      ASSERT_TRUE(SameBits(Stored(dtype, rounded[i]), rounded[i])) << values[i];
      ASSERT_EQ(std::signbit(rounded[i]), std::signbit(values[i]));
      if (std::abs(values[i]) >= Most(dtype)) {
        ASSERT_EQ(std::abs(rounded[i]), Most(dtype)) << values[i];
        ASSERT_EQ(std::abs(nearest[i]), Most(dtype)) << values[i];
        continue;
      }
      // Within a step: twice the distance of the nearest is at most one.
      const double step = dtype == StoreDtype::kFloat16
                              ? std::max(0x1p-24, std::ldexp(1.0, std::ilogb(values[i]) - 10))
                              : std::max(0x1p-133, std::ldexp(1.0, std::ilogb(values[i]) - 7));
      ASSERT_LT(std::abs(double{rounded[i]} - values[i]), step) << values[i];
      ASSERT_LE(std::abs(double{nearest[i]} - values[i]), step / 2) << values[i];
    }
  }
}

TEST(Rounding, LeavesWhatIsNotFinite) {
  for (const StoreDtype dtype :
       {StoreDtype::kFloat32, StoreDtype::kFloat16, StoreDtype::kBfloat16}) {
    std::vector<float> values = {kInf, -kInf, std::nanf(""), std::bit_cast<float>(0xff800001u)};
    RoundWeights(dtype, 1, 2, 3, values);
    EXPECT_EQ(values[0], kInf);
    EXPECT_EQ(values[1], -kInf);
    EXPECT_TRUE(std::isnan(values[2]) && std::isnan(values[3]));
    RoundToNearest(dtype, values);
    EXPECT_EQ(values[0], kInf);
    EXPECT_TRUE(std::isnan(values[3]));
  }
}

TEST(Rounding, IsRightOnAverage) {
  // Normal ones, subnormal halves, one between 0 and the first half.
  const std::vector<float> values = {0.1f,  -0.3f,  1.0001f, 777.77f,   -60001.0f,
                                     3e-5f, -7e-6f, 1e-7f,   0x1.8p-26f};
  constexpr int kDraws = 40'000;
  for (const StoreDtype dtype : kDtypes) {
    std::vector<double> sums(values.size(), 0);
    for (int draw = 0; draw < kDraws; ++draw) {
      std::vector<float> rounded = values;
      // Every part of the stream's name must do: keys and numbers of updates in turns.
      RoundWeights(dtype, 9, static_cast<uint64_t>(draw / 200), static_cast<uint32_t>(draw % 200),
                   rounded);
      for (size_t i = 0; i < values.size(); ++i) sums[i] += rounded[i];
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const double magnitude = std::abs(values[i]);
      const double step = dtype == StoreDtype::kFloat16
                              ? std::max(0x1p-24, std::ldexp(1.0, std::ilogb(magnitude) - 10))
                              : std::ldexp(1.0, std::ilogb(magnitude) - 7);
      // Five standard deviations of the mean of draws that are at most half a step wide.
      EXPECT_NEAR(sums[i] / kDraws, values[i], 5 * 0.5 * step / std::sqrt(kDraws)) << i;
    }
  }
}

TEST(Rounding, SmallUpdatesAddUp) {
  for (const StoreDtype dtype : kDtypes) {
    std::vector<float> weights(64, 1.0f);
    std::vector<float> nearest(64, 1.0f);
    for (uint32_t updates = 1; updates <= 1000; ++updates) {
      for (size_t i = 0; i < 64; ++i) {
        weights[i] += 1e-4f;  // a tenth of float16's step here, an eightieth of bfloat16's
        nearest[i] += 1e-4f;
      }
      RoundWeights(dtype, 3, 8, updates, weights);
      RoundToNearest(dtype, nearest);
    }
    double mean = 0;
    for (const float weight : weights) mean += weight / 64;
    EXPECT_NEAR(mean, 1.1, 0.01);
    EXPECT_EQ(nearest[0], 1.0f);
  }
}

TEST(Rounding, IsAFunctionOfSeedKeyUpdatesAndIndex) {
  const std::vector<float> values(512, 0.1f);
  const auto rounded = [&](uint64_t seed, uint64_t key, uint32_t updates, size_t n) {
    std::vector<float> copy(values.begin(), values.begin() + static_cast<int64_t>(n));
    RoundWeights(StoreDtype::kBfloat16, seed, key, updates, copy);
    return copy;
  };
  const std::vector<float> first = rounded(1, 2, 3, 512);
  EXPECT_EQ(rounded(1, 2, 3, 512), first);
  EXPECT_NE(rounded(2, 2, 3, 512), first);
  EXPECT_NE(rounded(1, 3, 3, 512), first);
  EXPECT_NE(rounded(1, 2, 4, 512), first);
  // Of the other lengths, the beginning; also where vectors end within the row.
  for (const size_t n : {0u, 1u, 3u, 4u, 5u, 63u, 64u, 65u, 100u}) {
    const std::vector<float> part = rounded(1, 2, 3, n);
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(part[i], first[i]);
  }
  // Within a row, as many up as the share of a step says.
  int up = 0;
  for (const float value : first) up += value > 0.1f ? 1 : 0;
  const double below = FloatOfBfloat(static_cast<uint16_t>(std::bit_cast<uint32_t>(0.1f) >> 16));
  const double share = (0.1 - below) / 0x1p-11;
  EXPECT_NEAR(up / 512.0, share, 5 * 0.5 / std::sqrt(512.0));
}

TEST(Rounding, OfFloat32DoesNothing) {
  std::vector<float> values = {0.1f, -1e-40f, 3e38f};
  const std::vector<float> before = values;
  RoundWeights(StoreDtype::kFloat32, 1, 2, 3, values);
  RoundToNearest(StoreDtype::kFloat32, values);
  EXPECT_EQ(values, before);
}

}  // namespace
}  // namespace savior
