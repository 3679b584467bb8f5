#include "worker/refresh/distil.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "common/random.h"

namespace savior {
namespace {

constexpr size_t kDim = 4, kCodes = 6, kLevels = 2, kHidden = 8;

Fusion MakeFusion(size_t parts, size_t hidden = kHidden) {
  Random random(1);
  Fusion fusion{kDim, parts, hidden, {}, {}};
  for (size_t i = 0; i < hidden * parts * kDim; ++i) {
    fusion.in.push_back(static_cast<float>(0.3 * random.Normal()));
  }
  for (size_t i = 0; i < hidden * kDim; ++i) {
    fusion.out.push_back(static_cast<float>(0.3 * random.Normal()));
  }
  return fusion;
}

AlignRows MakeRows(uint64_t seed) {
  Random random(seed);
  AlignRows rows{kCodes, {}};
  for (size_t i = 0; i < kLevels * kCodes * kDim; ++i) {
    rows.rows.push_back(static_cast<float>(random.Normal()));
  }
  return rows;
}

// Contents whose codes are renamed (k -> k + 1), but for one in eight, which moves elsewhere.
AlignSample MakeSample(size_t n, bool own) {
  Random random(3);
  AlignSample sample;
  sample.levels = kLevels;
  for (size_t i = 0; i < n; ++i) {
    sample.weights.push_back(1.0 + static_cast<double>(random.Below(4)));
    for (size_t l = 0; l < kLevels; ++l) {
      const auto code = static_cast<int32_t>(random.Below(kCodes));
      sample.before.push_back(code);
      sample.now.push_back(random.Below(8) == 0 ? static_cast<int32_t>(random.Below(kCodes))
                                                : (code + 1) % static_cast<int32_t>(kCodes));
    }
    for (size_t d = 0; own && d < kDim; ++d) {
      sample.rest.push_back(static_cast<float>(random.Normal()));
    }
  }
  return sample;
}

// As a worker computes: threads of small sums only wait for each other.
const int kOneThread = (at::set_num_threads(1), 1);

absl::Status NoPause() { return absl::OkStatus(); }

TEST(Distil, MovesRowsTowardsTheOldFunction) {
  for (const bool own : {false, true}) {
    const Fusion fusion = MakeFusion(kLevels + (own ? 1 : 0));
    const AlignRows before = MakeRows(2);
    const AlignSample sample = MakeSample(500, own);
    AlignRows now = before;  // index: codes were renamed, so this is bad
    const double start = PreservedR2(fusion, before, now, sample);
    ASSERT_TRUE(Distil(fusion, before, sample, {.lr = 0.05, .seed = 4}, &now, NoPause).ok());
    const double end = PreservedR2(fusion, before, now, sample);
    EXPECT_LT(start, 0.5);
    EXPECT_GT(end, 0.6);
    // Again: the same bits.
    AlignRows again = before;
    ASSERT_TRUE(Distil(fusion, before, sample, {.lr = 0.05, .seed = 4}, &again, NoPause).ok());
    EXPECT_EQ(now.rows, again.rows);
  }
}

// What is to stay is z + D. Here all contents of a code of level 1 have moved by the same.
TEST(Distil, MakesUpForAnEncoderThatHasMoved) {
  const Fusion plain{kDim, 1, kHidden, MakeFusion(1).in, MakeFusion(1).out};
  AlignRows before = MakeRows(2);
  before.rows.resize(kCodes * kDim);
  Random random(5);
  AlignSample sample;
  sample.levels = 1;
  for (size_t i = 0; i < 300; ++i) {
    const auto code = static_cast<int32_t>(random.Below(kCodes));
    sample.weights.push_back(1.0);
    sample.before.push_back(code);
    sample.now.push_back(code);
    for (size_t d = 0; d < kDim; ++d) {
      sample.z_change.push_back(0.01f * static_cast<float>(static_cast<size_t>(code) + d));
    }
  }
  const double start = PreservedR2(plain, before, before, sample);
  AlignRows now = before;
  ASSERT_TRUE(
      Distil(plain, before, sample, {.steps = 600, .lr = 0.05, .seed = 4}, &now, NoPause).ok());
  EXPECT_LT(1.0 - PreservedR2(plain, before, now, sample), 0.1 * (1.0 - start));
  // Zeros keep nothing of it.
  const AlignRows zeros = {kCodes, std::vector<float>(before.rows.size())};
  EXPECT_NEAR(PreservedR2(plain, before, zeros, sample), 0.0, 1e-9);
  // By hand, where D is the rows themselves: those of before lose what z has changed by.
  double lost = 0, all = 0;
  for (size_t i = 0; i < sample.size() * kDim; ++i) {
    const auto code = static_cast<size_t>(sample.before[i / kDim]);
    const double change = sample.z_change[i];
    const double target = before.rows[code * kDim + i % kDim] + change;
    lost += change * change;
    all += target * target;
  }
  const Fusion rows{kDim, 1, 0, {}, {}};
  EXPECT_NEAR(PreservedR2(rows, before, before, sample), 1.0 - lost / all, 1e-5);
}

TEST(Distil, BatchesOfALargeSample) {
  const Fusion fusion = MakeFusion(kLevels);
  const AlignRows before = MakeRows(2);
  AlignRows now = before;
  const AlignSample sample = MakeSample(500, false);
  ASSERT_TRUE(
      Distil(fusion, before, sample, {.lr = 0.05, .batch = 64, .seed = 4}, &now, NoPause).ok());
  EXPECT_GT(PreservedR2(fusion, before, now, sample), 0.6);
}

TEST(Distil, PreservedR2) {
  const Fusion fusion = MakeFusion(kLevels);
  const AlignRows before = MakeRows(2);
  AlignSample same = MakeSample(100, false);
  same.now = same.before;
  EXPECT_DOUBLE_EQ(PreservedR2(fusion, before, before, same), 1.0);
  const AlignRows zeros = {kCodes, std::vector<float>(before.rows.size())};
  EXPECT_NEAR(PreservedR2(fusion, before, zeros, same), 0.0, 1e-9);
  EXPECT_DOUBLE_EQ(PreservedR2(fusion, zeros, zeros, same), 1.0);
  // Arms without a fusion MLP: the rows themselves.
  const Fusion plain{kDim, kLevels, 0, {}, {}};
  EXPECT_NEAR(PreservedR2(plain, before, zeros, same), 0.0, 1e-9);
  EXPECT_DOUBLE_EQ(PreservedR2(plain, before, before, same), 1.0);
}

TEST(Distil, DegenerateSamples) {
  const Fusion fusion = MakeFusion(kLevels);
  const AlignRows before = MakeRows(2);
  AlignRows now = before;
  AlignSample none;
  none.levels = kLevels;
  ASSERT_TRUE(Distil(fusion, before, none, {}, &now, NoPause).ok());
  EXPECT_EQ(now.rows, before.rows);
  ASSERT_TRUE(Distil(fusion, before, MakeSample(1, false), {.steps = 3}, &now, NoPause).ok());
  EXPECT_NE(now.rows, before.rows);
  EXPECT_EQ(Distil(fusion, before, MakeSample(10, false), {}, &now,
                   [] { return absl::CancelledError("given up"); })
                .code(),
            absl::StatusCode::kCancelled);
}

TEST(Distil, FusionOfDenseWeights) {
  TensorFile dense;
  dense.tensors["fusion.in.weight"] = {{8, 8}, std::vector<float>(64, 1.0f)};
  dense.tensors["fusion.out.weight"] = {{4, 8}, std::vector<float>(32, 2.0f)};
  const auto fusion = FusionOf(dense, 4, 2);
  ASSERT_TRUE(fusion.ok()) << fusion.status();
  EXPECT_EQ(fusion->hidden, 8u);
  EXPECT_EQ(FusionOf(dense, 4, 3).status().code(), absl::StatusCode::kDataLoss);
  dense.tensors.erase("fusion.out.weight");
  EXPECT_EQ(FusionOf(dense, 4, 2).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace savior
