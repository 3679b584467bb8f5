#include "worker/refresh/remap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/random.h"
#include "worker/refresh/align_table.h"
#include "worker/refresh/assignment.h"

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::Pointwise;

// Two codes; all contents of old code 0 go to new code 1, those of old code 1 are split 3 : 1.
CodeJoint Split() { return {1, 2, {0, 3, 4, 1}}; }

TEST(Assignment, IsTheBestOfAllPermutations) {
  Random random(7);
  for (int trial = 0; trial < 50; ++trial) {
    const size_t n = 1 + random.Below(6);
    std::vector<double> value(n * n);
    for (double& v : value) v = static_cast<double>(random.Below(10));
    std::vector<size_t> permutation(n);
    std::iota(permutation.begin(), permutation.end(), size_t{0});
    double best = -1;
    do {
      double sum = 0;
      for (size_t i = 0; i < n; ++i) sum += value[i * n + permutation[i]];
      best = std::max(best, sum);
    } while (std::ranges::next_permutation(permutation).found);
    std::vector<size_t> got = BestAssignment(value, n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += value[i * n + got[i]];
    EXPECT_DOUBLE_EQ(sum, best);
    std::ranges::sort(got);
    std::iota(permutation.begin(), permutation.end(), size_t{0});
    EXPECT_EQ(got, permutation);
  }
}

TEST(Remap, ConditionalMeanIsWhatContentsWereToldOnAverage) {
  const RemapShares shares = SharesOf(Split(), RemapKind::kConditionalMean, 0.0);
  const std::vector<float> rows = {1, 10, 5, 50};
  // New code 0: all from old 1. New code 1: 4 of old 0, 1 of old 1.
  EXPECT_THAT(RemapRows(shares, rows, 2),
              Pointwise(FloatEq(), std::vector<float>{5, 50, 1.8f, 18}));
}

TEST(Remap, LambdaShrinksWhatFewStandBehind) {
  const RemapShares shares = SharesOf(Split(), RemapKind::kConditionalMean, 1.0);
  EXPECT_THAT(RemapRows(shares, std::vector<float>{1, 5}, 1),
              Pointwise(FloatEq(), std::vector<float>{15.0f / 4, 9.0f / 6}));
}

TEST(Remap, UnchangedCodesKeepTheirRows) {
  const CodeJoint same = {2, 2, {7, 0, 0, 9, 1, 0, 0, 2}};
  const std::vector<float> rows = {1, 2, 3, 4};
  for (const RemapKind kind :
       {RemapKind::kConditionalMean, RemapKind::kHungarian, RemapKind::kIndex}) {
    EXPECT_EQ(RemapRows(SharesOf(same, kind, 0.0), rows, 1), rows);
  }
}

TEST(Remap, HungarianFollowsRenamedCodes) {
  // Codes have only changed their numbers: 0 -> 2 -> 1 -> 0.
  const CodeJoint renamed = {1, 3, {0, 5, 0, 0, 0, 4, 6, 0, 0}};
  const std::vector<float> rows = {1, 2, 3};
  EXPECT_THAT(RemapRows(SharesOf(renamed, RemapKind::kHungarian, 0.01), rows, 1),
              ElementsAre(2, 3, 1));
  EXPECT_THAT(RemapRows(SharesOf(renamed, RemapKind::kIndex, 0.01), rows, 1), ElementsAre(1, 2, 3));
  EXPECT_THAT(RemapRows(SharesOf(renamed, RemapKind::kZero, 0.01), rows, 1), ElementsAre(0, 0, 0));
}

TEST(Remap, ACodeWithoutContentsReadsAsZeros) {
  const CodeJoint joint = {1, 2, {2, 3, 0, 0}};
  EXPECT_THAT(
      RemapRows(SharesOf(joint, RemapKind::kConditionalMean, 0.0), std::vector<float>{1, 6}, 1),
      ElementsAre(4, 0));
}

TEST(Remap, CountsAreSharedOutAndNoneIsLost) {
  EXPECT_THAT(RemapCounts(Split(), std::vector<uint32_t>{10, 4}), ElementsAre(3, 11));
  // An old code that no content has keeps its count under its number.
  EXPECT_THAT(RemapCounts({1, 2, {0, 1, 0, 1}}, std::vector<uint32_t>{9, 2}), ElementsAre(10, 1));
  Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    const size_t k = 1 + random.Below(20);
    CodeJoint joint{2, k, std::vector<double>(2 * k * k)};
    for (double& w : joint.weight) w = random.Below(3) == 0 ? random.Uniform() : 0;
    std::vector<uint32_t> counts(2 * k);
    for (uint32_t& c : counts) c = static_cast<uint32_t>(random.Below(1000));
    const std::vector<uint32_t> got = RemapCounts(joint, counts);
    for (size_t l = 0; l < 2; ++l) {
      const auto sum = [&](const std::vector<uint32_t>& of) {
        const auto begin = of.begin() + static_cast<std::ptrdiff_t>(l * k);
        return std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(k), uint64_t{0});
      };
      EXPECT_EQ(sum(got), sum(counts));
    }
  }
}

TEST(Remap, FirstMomentsOfAdamStartAgain) {
  const RemapShares shares = SharesOf(Split(), RemapKind::kConditionalMean, 0.0);
  // m, v of two rows of one float.
  EXPECT_THAT(RemapState(shares, OptimizerKind::kAdam, 1, std::vector<float>{1, 2, 3, 7}),
              Pointwise(FloatEq(), std::vector<float>{0, 7, 0, 3}));
  EXPECT_THAT(RemapState(shares, OptimizerKind::kAdagrad, 1, std::vector<float>{2, 7}),
              Pointwise(FloatEq(), std::vector<float>{7, 3}));
  EXPECT_TRUE(RemapState(shares, OptimizerKind::kSgd, 1, {}).empty());
}

AlignTable Table(std::vector<float> weights) {
  AlignTable table{1, 2, 1, 1, std::move(weights), {1, 1}, {8, 8}};
  return table;
}

TEST(CarriedOver, FollowsWhatTheOldRowsHaveLearnedSince) {
  const RemapShares shares = SharesOf(Split(), RemapKind::kConditionalMean, 0.0);
  const AlignTable from = Table({1, 5}), made = Table({100, 200});  // as if distilled far away
  EXPECT_EQ(CarriedOver(made, from, from, shares, Split(), OptimizerKind::kAdagrad).weights,
            made.weights);
  AlignTable now = Table({1 + 10, 5});
  now.updates = {9, 8};
  const AlignTable carried = CarriedOver(made, from, now, shares, Split(), OptimizerKind::kAdagrad);
  EXPECT_THAT(carried.weights, Pointwise(FloatEq(), std::vector<float>{100, 208}));
  EXPECT_EQ(std::accumulate(carried.updates.begin(), carried.updates.end(), 0u), 17u);
}

}  // namespace
}  // namespace savior
