#include "ps/hot_tier.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "common/random.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

RowLayout Layout(uint32_t dim = 4) {
  return RowLayout(IdTable("t", dim, Optimizer(OptimizerKind::kSgd)));
}

constexpr size_t kSmallChunk = 256;  // a few rows: so that tests cross chunks

TEST(HotTier, FindsWhatWasInserted) {
  HotTier tier(Layout(), 1 << 20, kSmallChunk);
  EXPECT_EQ(tier.Find(5), HotTier::kNoSlot);
  const uint32_t slot = tier.Insert(5);
  tier.Row(slot).weights[3] = 1.5f;
  EXPECT_EQ(tier.Find(5), slot);
  EXPECT_EQ(tier.Row(slot).header.key, 5u);
  EXPECT_EQ(tier.Find(6), HotTier::kNoSlot);
  tier.Erase(slot);
  EXPECT_EQ(tier.Find(5), HotTier::kNoSlot);
  EXPECT_EQ(tier.size(), 0u);
}

TEST(HotTier, FollowsAMapThroughRandomInsertsAndErases) {
  constexpr uint64_t kSeed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (const uint32_t dim : {4u, 512u}) {
    Random random(kSeed, dim);
    HotTier tier(Layout(dim), 32 << 20, dim == 4 ? kSmallChunk : size_t{4} << 10);
    std::map<uint64_t, float> model;
    for (int round = 0; round < 20'000; ++round) {
      // Keys of a small range, so that erased ones come again; the share of inserts swings.
      const uint64_t key = random.Below(3000) << (round % 2 == 0 ? 0 : 40);
      const uint32_t slot = tier.Find(key);
      ASSERT_EQ(slot != HotTier::kNoSlot, model.contains(key));
      if (slot == HotTier::kNoSlot && random.Below(3000) < 3000 - model.size()) {
        const auto value = static_cast<float>(round);
        tier.Row(tier.Insert(key)).weights[dim - 1] = value;
        model[key] = value;
      } else if (slot != HotTier::kNoSlot) {
        ASSERT_EQ(tier.Row(slot).weights[dim - 1], model[key]);
        if (random.Below(2) == 0) {
          tier.Erase(slot);
          model.erase(key);
        }
      }
      ASSERT_EQ(tier.size(), model.size());
    }
    std::vector<uint64_t> keys = Keys(0, 3000);
    std::vector<uint32_t> slots(keys.size());
    tier.Find(keys, slots);
    for (size_t i = 0; i < keys.size(); ++i) {
      ASSERT_EQ(slots[i] != HotTier::kNoSlot, model.contains(keys[i]));
      if (slots[i] != HotTier::kNoSlot) {
        EXPECT_EQ(tier.Row(slots[i]).weights[dim - 1], model[keys[i]]);
      }
    }
  }
}

TEST(HotTier, StaysWithinItsLimit) {
  for (const uint64_t limit : {0ull, 10'000ull, 1'000'000ull}) {
    HotTier tier(Layout(16), limit);
    while (tier.size() < tier.capacity()) tier.Insert(tier.size());
    EXPECT_TRUE(tier.bytes() <= limit || tier.capacity() == HotTier::kMinCapacity);
    EXPECT_GE(tier.capacity(), HotTier::kMinCapacity);
    EXPECT_EQ(tier.bytes(), tier.BytesFor(tier.size()));
  }
  // A large limit is used: rows of 80 bytes in RAM.
  HotTier tier(Layout(16), 10'000'000);
  EXPECT_GT(tier.capacity(), 10'000'000 / (80 + 24));
}

TEST(HotTier, OverheadIsAtMost24BytesPerRow) {
  HotTier tier(Layout(16), uint64_t{1} << 40);
  for (const uint64_t rows : {100'000u, 1'000'000u, 1'600'000u, 100'000'000u}) {
    const double overhead = static_cast<double>(tier.BytesFor(rows)) / static_cast<double>(rows) -
                            (16 * sizeof(float) + 2 * sizeof(uint32_t));
    EXPECT_LE(overhead, 24) << rows;
  }
}

TEST(HotTier, TrimGivesMemoryBack) {
  HotTier tier(Layout(), 10 << 20, kSmallChunk);
  for (uint64_t key = 0; key < 10'000; ++key) tier.Insert(key);
  const uint64_t before = tier.bytes();
  tier.SetLimit(before / 8);
  const std::vector<uint32_t> victims = tier.PickVictims(tier.size() - tier.capacity());
  for (const uint32_t slot : victims) tier.Erase(slot);
  tier.Trim();
  EXPECT_LE(tier.bytes(), before / 8);
  uint32_t left = 0;
  for (uint64_t key = 0; key < 10'000; ++key) left += tier.Find(key) != HotTier::kNoSlot;
  EXPECT_EQ(left, tier.size());
}

TEST(HotTier, UsedRowsStayLongest) {
  HotTier tier(Layout(), 1 << 20);
  for (uint64_t key = 0; key < 1000; ++key) tier.Insert(key);
  for (uint64_t key = 0; key < 100; ++key) {
    tier.MarkUsed(tier.Find(key));
    tier.MarkUsed(tier.Find(key));
  }
  const std::vector<uint32_t> victims = tier.PickVictims(900);
  EXPECT_TRUE(std::is_sorted(victims.rbegin(), victims.rend()));
  for (const uint32_t slot : victims) tier.Erase(slot);
  for (uint64_t key = 0; key < 100; ++key) EXPECT_NE(tier.Find(key), HotTier::kNoSlot);
}

TEST(HotTier, VictimsAreDistinctEvenIfAllAreAsked) {
  HotTier tier(Layout(), 1 << 20);
  for (uint64_t key = 0; key < 50; ++key) tier.Insert(key);
  const std::vector<uint32_t> victims = tier.PickVictims(50);
  EXPECT_EQ(std::set<uint32_t>(victims.begin(), victims.end()).size(), 50u);
  for (const uint32_t slot : victims) tier.Erase(slot);
  EXPECT_EQ(tier.size(), 0u);
}

TEST(HotTier, DirtinessMovesWithTheRow) {
  HotTier tier(Layout(), 1 << 20);
  for (uint64_t key = 0; key < 20; ++key) tier.Insert(key);
  tier.MarkDirty(tier.Find(19));
  tier.Erase(tier.Find(3));  // 19 moves into the gap
  EXPECT_TRUE(tier.IsDirty(tier.Find(19)));
  EXPECT_FALSE(tier.IsDirty(tier.Find(18)));
  tier.MarkClean(tier.Find(19));
  EXPECT_FALSE(tier.IsDirty(tier.Find(19)));
}

}  // namespace
}  // namespace savior
