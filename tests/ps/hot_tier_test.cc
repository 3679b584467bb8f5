#include "ps/hot_tier.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "common/random.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

constexpr uint64_t kMuch = uint64_t{32} << 20;

RowLayout Layout(uint32_t dim = 4, OptimizerKind optimizer = OptimizerKind::kSgd) {
  return RowLayout(IdTable("t", dim, Optimizer(optimizer)));
}

float& LastWeight(const HotTier& tier, const HotTier::Place& place, uint32_t dim) {
  return tier.Row(place).weights[dim - 1];
}

bool IsDirty(const HotTier& tier, uint64_t key) {
  return (tier.Find(key).marks() & HotTier::kDirty) != 0;
}

// Until there is nothing left to do.
void MaintainAll(HotTier& tier) {
  while (tier.Maintain(1)) {
  }
}

void EraseVictims(HotTier& tier, uint32_t count) {
  for (const HotTier::Victim& victim : tier.PickVictims(count)) tier.Erase(tier.Find(victim.key));
}

TEST(HotTier, FindsWhatWasInserted) {
  HotTier tier(Layout(), kMuch, kMuch);
  EXPECT_FALSE(tier.Find(5));
  LastWeight(tier, tier.Insert(5), 4) = 1.5f;
  EXPECT_EQ(LastWeight(tier, tier.Find(5), 4), 1.5f);
  EXPECT_EQ(tier.Find(5).key(), 5u);
  EXPECT_FALSE(tier.Find(6));
  EXPECT_FALSE(tier.Find(0));  // also what a free lane says
  tier.Insert(0);
  EXPECT_TRUE(tier.Find(0));
  tier.Erase(tier.Find(5));
  EXPECT_FALSE(tier.Find(5));
  EXPECT_EQ(tier.size(), 1u);
}

// A catalogue that never stops growing: every row is new, nobody comes back. The hand must not
// leave emptiness behind and crowds ahead of it.
TEST(HotTier, AStreamOfNewRowsKeepsRowsNearTheirHomes) {
  constexpr uint32_t kRows = 100'000;
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 12 * kRows; ++key) {
    if (tier.size() == kRows) EraseVictims(tier, 64);
    tier.Insert(Mix(key));
    if (key % kRows == kRows - 1) {
      EXPECT_LE(tier.LongestReach(), 40u) << key;
    }
  }
}

TEST(HotTier, AScalarStateLiesInTheHeadOthersBehindTheWeights) {
  for (const OptimizerKind kind :
       {OptimizerKind::kSgd, OptimizerKind::kRowwiseAdagrad, OptimizerKind::kAdam}) {
    const RowLayout layout = Layout(8, kind);
    HotTier tier(layout, kMuch, kMuch);
    for (uint64_t key = 0; key < 100; ++key) {
      const RowRef row = tier.Row(tier.Insert(key));
      row.head = {.updates = 1, .last_step = 2};
      std::fill_n(row.weights, 8, static_cast<float>(key));
      std::fill_n(row.state, layout.state_floats(), -static_cast<float>(key));
    }
    for (uint64_t key = 0; key < 100; ++key) {
      const RowRef row = tier.Row(tier.Find(key));
      EXPECT_EQ(row.head.updates, 1u);
      EXPECT_EQ(row.head.last_step, 2u);
      for (uint32_t d = 0; d < 8; ++d) EXPECT_EQ(row.weights[d], static_cast<float>(key));
      for (uint32_t d = 0; d < layout.state_floats(); ++d) {
        EXPECT_EQ(row.state[d], -static_cast<float>(key));
      }
    }
  }
}

std::vector<HotTier::Place> FindAll(const HotTier& tier, std::span<const uint64_t> keys,
                                    HotTier::Access access) {
  std::vector<HotTier::Place> places;
  tier.Find(keys, access, [&](size_t i, const HotTier::Place& place) {
    EXPECT_EQ(i, places.size());
    places.push_back(place);
  });
  EXPECT_EQ(places.size(), keys.size());
  return places;
}

// What a tier must be after any history: the model's rows, and no others.
void Compare(const HotTier& tier, const std::map<uint64_t, float>& model, uint32_t dim,
             std::span<const uint64_t> keys) {
  const std::vector<HotTier::Place> places = FindAll(tier, keys, HotTier::Access::kPeek);
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(static_cast<bool>(places[i]), model.contains(keys[i]));
    if (places[i]) {
      ASSERT_EQ(LastWeight(tier, places[i], dim), model.at(keys[i]));
    }
  }
  std::set<uint64_t> seen;
  tier.ForEach([&](const HotTier::Place& place) {
    ASSERT_TRUE(seen.insert(place.key()).second);
    ASSERT_TRUE(model.contains(place.key()));
    ASSERT_EQ(LastWeight(tier, place, dim), model.at(place.key()));
  });
  ASSERT_EQ(seen.size(), model.size());
}

// Random insertions and erasures, where the size swings, so that the index grows and shrinks, and
// limits rise and fall, so that rows move.
TEST(HotTier, FollowsAMapThroughRandomHistories) {
  constexpr uint64_t kSeed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (const uint32_t dim : {4u, 512u}) {
    Random random(kSeed, dim);
    HotTier tier(Layout(dim), kMuch, kMuch);
    std::map<uint64_t, float> model;
    std::vector<uint64_t> keys;
    for (uint64_t i = 0; i < 3000; ++i) keys.push_back(i << (i % 2 == 0 ? 0 : 40));
    uint64_t wanted = 0;
    for (int round = 0; round < 60'000; ++round) {
      if (round % 5000 == 0) wanted = random.Below(3000);
      const uint64_t key = keys[random.Below(keys.size())];
      const HotTier::Place place = tier.Find(key);
      ASSERT_EQ(static_cast<bool>(place), model.contains(key));
      if (!place && model.size() < wanted) {
        const auto value = static_cast<float>(round);
        LastWeight(tier, tier.Insert(key), dim) = value;
        model[key] = value;
      } else if (place && (model.size() > wanted || random.Below(4) == 0)) {
        ASSERT_EQ(LastWeight(tier, place, dim), model[key]);
        tier.Erase(place);
        model.erase(key);
      }
      ASSERT_EQ(tier.size(), model.size());
      if (random.Below(4) == 0) tier.Maintain(1 + random.Below(3));
      if (random.Below(2000) == 0) tier.SetLimit(tier.BytesFor(random.Below(4000)));
      if (round % 997 == 0) Compare(tier, model, dim, keys);
      if (testing::Test::HasFatalFailure()) return;
    }
    Compare(tier, model, dim, keys);
  }
}

TEST(HotTier, KeysOfOneHomeAreFoundAndErased) {
  // Keys whose hashes share their upper bits: Mix is a bijection, so pick by search.
  std::vector<uint64_t> keys;
  for (uint64_t key = 0; keys.size() < 200; ++key) {
    if (HotIndex::HashOf(key) >> 54 == 1023) keys.push_back(key);  // the last home
  }
  HotTier tier(Layout(), kMuch, kMuch);
  std::map<uint64_t, float> model;
  for (const uint64_t key : keys) {
    LastWeight(tier, tier.Insert(key), 4) = 1;
    model[key] = 1;
  }
  Compare(tier, model, 4, keys);
  for (size_t i = 0; i < keys.size(); i += 3) {
    tier.Erase(tier.Find(keys[i]));
    model.erase(keys[i]);
    Compare(tier, model, 4, keys);
  }
}

TEST(HotTier, StaysWithinItsLimit) {
  for (const uint64_t limit : {0ull, 30'000ull, 1'000'000ull, 20'000'000ull}) {
    HotTier tier(Layout(16), limit, kMuch);
    while (tier.size() < tier.capacity()) {
      tier.Insert(tier.size());
      if (tier.size() % 64 == 0) {
        ASSERT_TRUE(tier.bytes() <= limit || tier.size() <= HotTier::kMinCapacity) << tier.size();
      }
    }
    EXPECT_GE(tier.capacity(), HotTier::kMinCapacity);
    MaintainAll(tier);
    EXPECT_EQ(tier.bytes(), tier.BytesFor(tier.size()));
  }
  // A large limit is used: rows of 72 bytes in RAM.
  HotTier tier(Layout(16), 10'000'000, kMuch);
  EXPECT_GT(tier.capacity(), 10'000'000 / (72 + 24));
}

TEST(HotTier, OverheadIsAtMost24BytesPerRow) {
  HotTier tier(Layout(32, OptimizerKind::kRowwiseAdagrad), kMuch, kMuch);
  for (uint64_t rows = 10'000'000; rows < 1'000'000'000; rows = rows * 11 / 10) {
    const double overhead = static_cast<double>(tier.BytesFor(rows)) / static_cast<double>(rows) -
                            (33 * sizeof(float) + 2 * sizeof(uint32_t));
    EXPECT_LE(overhead, 24) << rows;
    EXPECT_GE(overhead, 16) << rows;
  }
}

TEST(HotTier, GivesMemoryBackWhenTheLimitFalls) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 100'000; ++key) {
    LastWeight(tier, tier.Insert(key), 4) = static_cast<float>(key);
  }
  const uint64_t before = tier.bytes();
  tier.SetLimit(before / 8);
  EraseVictims(tier, tier.size() - tier.capacity());
  MaintainAll(tier);
  EXPECT_LE(tier.bytes(), before / 8);
  uint32_t left = 0;
  for (uint64_t key = 0; key < 100'000; ++key) {
    const HotTier::Place place = tier.Find(key);
    if (!place) continue;
    ++left;
    EXPECT_EQ(LastWeight(tier, place, 4), static_cast<float>(key));
  }
  EXPECT_EQ(left, tier.size());
  EXPECT_EQ(left, tier.capacity());
}

TEST(HotTier, ALimitThatRisesWhileRowsMoveLosesNothing) {
  HotTier tier(Layout(), kMuch, kMuch);
  std::map<uint64_t, float> model;
  const auto insert = [&](uint64_t key) {
    LastWeight(tier, tier.Insert(key), 4) = static_cast<float>(key);
    model[key] = static_cast<float>(key);
  };
  for (uint64_t key = 0; key < 50'000; ++key) insert(key);
  tier.SetLimit(tier.bytes() / 4);
  for (const HotTier::Victim& victim : tier.PickVictims(tier.size() - tier.capacity())) {
    tier.Erase(tier.Find(victim.key));
    model.erase(victim.key);
  }
  EXPECT_TRUE(tier.Maintain(1));  // rows begin to move
  tier.SetLimit(kMuch);
  for (uint64_t key = 50'000; key < 120'000; ++key) insert(key);
  MaintainAll(tier);
  Compare(tier, model, 4, Keys(0, 120'000));
}

TEST(HotTier, UsedRowsStayLongest) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 1000; ++key) tier.Insert(key);
  for (int use = 0; use < 2; ++use) FindAll(tier, Keys(0, 100), HotTier::Access::kRead);
  EraseVictims(tier, 900);
  for (uint64_t key = 0; key < 100; ++key) EXPECT_TRUE(tier.Find(key));
}

TEST(HotTier, FindVisitsAnyNumberOfKeysInTheirOrder) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 100; key += 2) tier.Insert(key);
  for (uint64_t n = 0; n < 100; ++n) {
    const std::vector<HotTier::Place> places = FindAll(tier, Keys(0, n), HotTier::Access::kRead);
    for (uint64_t key = 0; key < n; ++key) EXPECT_EQ(static_cast<bool>(places[key]), key % 2 == 0);
  }
}

TEST(HotTier, HeldRowsAndThoseBeingWrittenAreNoVictims) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 100; ++key) tier.Insert(key);
  for (uint64_t key = 0; key < 30; ++key) HotTier::Mark(tier.Find(key), HotTier::kHeld);
  for (uint64_t key = 30; key < 40; ++key) HotTier::Mark(tier.Find(key), HotTier::kWriting);
  EXPECT_EQ(tier.PickVictims(100).size(), 60u);
  for (const HotTier::Victim& victim : tier.PickVictims(60)) EXPECT_GE(victim.key, 40u);
  for (uint64_t key = 0; key < 30; ++key) HotTier::Unmark(tier.Find(key), HotTier::kHeld);
  EXPECT_EQ(tier.PickVictims(100).size(), 90u);
}

TEST(HotTier, VictimsAreDistinctEvenIfAllAreAsked) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 50; ++key) tier.Insert(key);
  std::set<uint64_t> keys;
  for (const HotTier::Victim& victim : tier.PickVictims(50)) keys.insert(victim.key);
  EXPECT_EQ(keys.size(), 50u);
}

TEST(HotTier, MarksMoveWithTheRow) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 2000; ++key) {
    tier.Insert(key);
    if (key % 3 == 0) HotTier::Mark(tier.Find(key), HotTier::kDirty);
  }
  for (uint64_t key = 0; key < 2000; key += 7) tier.Erase(tier.Find(key));
  MaintainAll(tier);
  for (uint64_t key = 0; key < 2000; ++key) {
    if (key % 7 != 0) {
      EXPECT_EQ(IsDirty(tier, key), key % 3 == 0) << key;
    }
  }
}

TEST(HotTier, UpdatesMakeDirtyReadsDoNot) {
  HotTier tier(Layout(), kMuch, kMuch);
  for (uint64_t key = 0; key < 10; ++key) tier.Insert(key);
  FindAll(tier, Keys(0, 5), HotTier::Access::kUpdate);
  FindAll(tier, Keys(5, 10), HotTier::Access::kReadAll);
  for (uint64_t key = 0; key < 10; ++key) EXPECT_EQ(IsDirty(tier, key), key < 5);
  std::set<uint64_t> ahead;
  while (tier.PickVictims(10).empty()) {
  }
  for (const HotTier::Place& place : tier.DirtyAhead(100, 1000)) ahead.insert(place.key());
  for (const uint64_t key : ahead) EXPECT_LT(key, 5u);
}

// Pages named ahead are those that come next, each once, within the limit, and as good as others.
TEST(HotTier, NamesThePagesItWillNeed) {
  constexpr uint64_t kLimit = uint64_t{400} << 20;
  HotTier tier(Layout(512), kLimit, kLimit);  // 2 KiB a row: large soon
  std::set<std::byte*> named;
  size_t pages = 0;
  for (uint64_t key = 0; tier.size() < tier.capacity(); ++key) {
    LastWeight(tier, tier.Insert(key), 512) = static_cast<float>(key);
    for (const std::span<std::byte> page : tier.GrowAhead()) {
      EXPECT_TRUE(named.insert(page.data()).second);
      EXPECT_EQ(page.size() % Arena::kHugePage, 0u);
      Arena::Touch(page);
      ++pages;
    }
    ASSERT_LE(tier.bytes(), kLimit);
  }
  EXPECT_GT(pages, 100u);
  for (uint64_t key = 0; key < tier.size(); ++key) {
    ASSERT_EQ(LastWeight(tier, tier.Find(key), 512), static_cast<float>(key));
  }
  const uint64_t hot = tier.size();
  EXPECT_TRUE(tier.GrowAhead().empty());
  EraseVictims(tier, static_cast<uint32_t>(hot / 2));
  EXPECT_TRUE(tier.GrowAhead().empty());  // there are free slots
}

// No insertion may do more than its share of a growth.
TEST(HotTier, GrowsALittleWithEachInsertion) {
  HotIndex index;
  uint64_t hash = 0;
  uint64_t walked = 0;
  for (uint64_t key = 0; key < 300'000; ++key) index.Insert(key, static_cast<uint32_t>(key), 0);
  while (index.Maintain(1)) {
  }
  // Insert until a growth begins; it takes many insertions to end.
  uint64_t key = 300'000;
  while (!index.Maintain(1)) index.Insert(key, static_cast<uint32_t>(key), 0), ++key;
  uint64_t insertions = 0;
  while (index.Maintain(0)) index.Insert(key, static_cast<uint32_t>(key), 0), ++key, ++insertions;
  EXPECT_GT(insertions, 1000u);
  do {
    index.Walk(&hash, 100, [&](const HotIndex::Place&) { ++walked; });
  } while (hash != 0);
  EXPECT_EQ(walked, key);
}

}  // namespace
}  // namespace savior
