#include "common/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/random.h"

namespace savior {
namespace {

TEST(Routing, EvenMapGivesEveryShardItsPart) {
  for (const uint32_t shards : {1u, 2u, 3u, 5u, 7u, 1000u, kBuckets}) {
    const std::vector<uint32_t> map = EvenBucketMap(shards);
    std::vector<uint32_t> buckets(shards, 0);
    for (const uint32_t shard : map) ++buckets.at(shard);
    for (const uint32_t n : buckets) {
      EXPECT_GE(n, kBuckets / shards);
      EXPECT_LE(n, kBuckets / shards + 1);
    }
  }
}

TEST(Routing, BucketsAreTheCommitFormat) {
  // Golden values: a change would send a commit's rows to the wrong shards.
  EXPECT_EQ(BucketOf(0, 0), MixTwo(0, 0) >> 52);
  EXPECT_EQ(Mix(0), 0xe220a8397b1dcdafULL);  // splitmix64's first output for seed 0
  EXPECT_EQ(Mix(1), 0x910a2dec89025cc1ULL);
}

TEST(Routing, SequentialKeysSpreadEvenly) {
  std::vector<uint32_t> counts(kBuckets, 0);
  constexpr int kPerBucket = 100;
  for (uint64_t key = 0; key < kBuckets * kPerBucket; ++key) ++counts[BucketOf(3, key)];
  for (const uint32_t n : counts) EXPECT_NEAR(n, kPerBucket, 6 * std::sqrt(kPerBucket));
}

TEST(Random, IsAFunctionOfSeedStreamAndCounter) {
  Random a(1, 2);
  Random b(1, 2);
  Random c(1, 3);
  for (int i = 0; i < 10; ++i) {
    const uint64_t x = a();
    EXPECT_EQ(x, b());
    EXPECT_NE(x, c());
  }
}

TEST(Random, NormalHasMeanZeroAndVarianceOne) {
  Random random(5);
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 100'000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.Normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.02);
}

}  // namespace
}  // namespace savior
