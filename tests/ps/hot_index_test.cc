// Histories chosen to hurt: an index while it changes its size, keys that collide on purpose.
#include "ps/hot_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "common/random.h"
#include "ps/hot_tier.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

using Model = std::map<uint64_t, uint32_t>;  // key -> slot

// `n` keys whose hashes have `top` as their first `bits` bits.
std::vector<uint64_t> KeysOfHome(uint64_t top, uint32_t bits, size_t n, uint64_t from = 0) {
  std::vector<uint64_t> keys;
  for (uint64_t key = from; keys.size() < n; ++key) {
    if (HotIndex::HashOf(key) >> (64 - bits) == top) keys.push_back(key);
  }
  return keys;
}

// All entries by walks of `buckets` buckets are the model's, each once.
void CompareWalk(const HotIndex& index, const Model& model, uint64_t buckets) {
  std::set<uint64_t> seen;
  uint64_t hash = 0;
  uint64_t last = 0;
  do {
    index.Walk(&hash, buckets, [&](const HotIndex::Place& place) {
      ASSERT_TRUE(seen.insert(place.key()).second) << place.key();
      const auto found = model.find(place.key());
      ASSERT_TRUE(found != model.end()) << place.key();
      ASSERT_EQ(place.slot, found->second);
    });
    ASSERT_TRUE(hash == 0 || hash > last) << "a walk only goes forward";
    last = hash;
  } while (hash != 0 && !testing::Test::HasFatalFailure());
  ASSERT_EQ(seen.size(), model.size());
}

void Compare(const HotIndex& index, const Model& model) {
  ASSERT_EQ(index.size(), model.size());
  for (const auto& [key, slot] : model) {
    const HotIndex::Place place = index.Find(key);
    ASSERT_TRUE(place) << key;
    ASSERT_EQ(place.slot, slot);
    ASSERT_EQ(place.marks(), key & 31);
  }
  for (const uint64_t buckets : {uint64_t{1}, uint64_t{3}, uint64_t{UINT64_MAX}}) {
    CompareWalk(index, model, buckets);
  }
}

void Insert(HotIndex* index, Model* model, uint64_t key) {
  const auto slot = static_cast<uint32_t>(model->size());
  index->Insert(key, slot, key & 31);
  (*model)[key] = slot;
}

void Erase(HotIndex* index, Model* model, uint64_t key) {
  index->Erase(index->Find(key));
  model->erase(key);
}

// A change of size may stop behind any bucket, the last one and what spilled over it included.
TEST(HotIndex, AWalkIsCompleteWhereverAChangeOfSizeStands) {
  const std::vector<uint64_t> last = KeysOfHome(4095, 12, 12);
  for (const size_t spilled : {size_t{0}, size_t{5}, size_t{12}}) {
    HotIndex index;
    Model model;
    for (size_t i = 0; i < spilled; ++i) Insert(&index, &model, last[i]);
    for (uint64_t key = 0; model.size() < 1000; ++key) {
      if (!model.contains(key)) Insert(&index, &model, key);
      if (model.size() % 50 == 0) Compare(index, model);
      ASSERT_FALSE(HasFatalFailure()) << "growing, " << model.size() << " entries";
    }
    while (index.Maintain(1)) {
      Compare(index, model);
      ASSERT_FALSE(HasFatalFailure()) << "grown, spilled " << spilled;
    }
    std::vector<uint64_t> keys;
    for (const auto& [key, slot] : model) keys.push_back(key);
    for (const uint64_t key : keys) {
      if (model.size() > 100 + spilled && std::ranges::find(last, key) == last.end()) {
        Erase(&index, &model, key);
      }
    }
    index.ShrinkTo(0);
    while (index.Maintain(1)) {
      Compare(index, model);
      ASSERT_FALSE(HasFatalFailure()) << "shrunk, spilled " << spilled;
    }
    Compare(index, model);
  }
}

TEST(HotIndex, ErasuresAndInsertionsInBothArraysOfAChangeOfSize) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    HotIndex index;
    Model model;
    std::vector<uint64_t> keys = KeysOfHome(0, 9, 40);
    for (const uint64_t key : KeysOfHome(511, 9, 40)) keys.push_back(key);
    for (const uint64_t key : {uint64_t{0}, uint64_t{UINT64_MAX}}) keys.push_back(key);
    for (int i = 0; i < 900; ++i) keys.push_back(random());
    std::ranges::sort(keys);
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    size_t wanted = keys.size();
    uint32_t slot = 0;
    for (int round = 0; round < 6000; ++round) {
      if (round % 400 == 0) wanted = random.Below(keys.size());
      const uint64_t key = keys[random.Below(keys.size())];
      const HotIndex::Place place = index.Find(key);
      ASSERT_EQ(static_cast<bool>(place), model.contains(key));
      if (place && (model.size() > wanted || random.Below(3) == 0)) {
        Erase(&index, &model, key);
      } else if (!place && model.size() < wanted) {
        index.Insert(key, ++slot, key & 31);
        model[key] = slot;
      }
      if (random.Below(3) == 0) index.Maintain(random.Below(2));
      // Begins to shrink, sometimes so far that the next insertions have to grow it again.
      if (random.Below(50) == 0) index.ShrinkTo(0);
      if (round % 61 == 0) Compare(index, model);
      if (HasFatalFailure()) return;
    }
  }
}

// What a checkpoint's slices rest on: whoever is there from begin to end is met once, whatever
// comes and goes between two steps, also where erasures move entries back over the walk's own
// place.
TEST(HotIndex, AWalkMeetsEveryEntryThatStaysOnceWhateverHappensMeanwhile) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    HotIndex index;
    std::set<uint64_t> stay, others;
    for (const uint64_t key : KeysOfHome(random.Below(64), 6, 60)) {  // a long run
      (random.Below(2) == 0 ? stay : others).insert(key);
    }
    while (stay.size() < 300) stay.insert(random());
    uint32_t slot = 0;
    for (const std::set<uint64_t>* keys : {&stay, &others}) {
      for (const uint64_t key : *keys) index.Insert(key, ++slot, 0);
    }
    std::map<uint64_t, int> met;
    uint64_t hash = 0;
    do {
      const uint64_t before = hash;
      index.Walk(&hash, 1 + random.Below(4), [&](const HotIndex::Place& place) {
        ++met[place.key()];
        const uint64_t of = HotIndex::HashOf(place.key());
        EXPECT_GE(of, before);
      });
      if (hash != 0) {
        for (const auto& [key, times] : met) ASSERT_LT(HotIndex::HashOf(key), hash);
      }
      for (uint64_t i = random.Below(8); i > 0 && !others.empty(); --i) {
        index.Erase(index.Find(*others.begin()));
        others.erase(others.begin());
      }
      for (uint64_t i = random.Below(12); i > 0; --i) {
        const uint64_t key = random();
        if (!index.Find(key)) index.Insert(key, ++slot, 0);
      }
      if (random.Below(4) == 0) index.ShrinkTo(0);
      if (random.Below(3) == 0) index.Maintain(random.Below(3));
    } while (hash != 0);
    for (const uint64_t key : stay) ASSERT_EQ(met[key], 1) << key;
  }
}

TEST(HotIndex, KeysThatAllCollideAreFoundWhileItGrowsAndShrinks) {
  for (const uint64_t home : {0, 255}) {
    HotIndex index;
    Model model;
    const std::vector<uint64_t> keys = KeysOfHome(home, 8, 400);
    for (const uint64_t key : keys) {
      Insert(&index, &model, key);
      if (model.size() % 20 == 0) Compare(index, model);
      ASSERT_FALSE(HasFatalFailure());
    }
    for (size_t i = 0; i < keys.size(); ++i) {
      Erase(&index, &model, keys[i * 7 % keys.size()]);
      if (i % 10 == 0) index.ShrinkTo(0);
      index.Maintain(1);
      if (i % 20 == 0) Compare(index, model);
      ASSERT_FALSE(HasFatalFailure());
    }
  }
}

// Whatever is under way in the index, the hand names as many victims as there may be.
TEST(HotTier, PicksAsManyVictimsAsThereAreWhateverTheIndexDoes) {
  constexpr uint64_t kMuch = uint64_t{32} << 20;
  const std::vector<uint64_t> last = KeysOfHome(1023, 10, 30);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    HotTier tier(RowLayout(AlignSpec("t", 4, Optimizer(OptimizerKind::kSgd))), kMuch, kMuch);
    std::set<uint64_t> all;
    std::set<uint64_t> fixed;  // held or being written
    uint64_t next = 0;
    for (int round = 0; round < 300; ++round) {
      const uint64_t inserts = random.Below(40);
      for (uint64_t i = 0; i < inserts; ++i) {
        const uint64_t key = random.Below(20) == 0 ? last[random.Below(last.size())] : ++next;
        if (!all.insert(key).second) continue;
        const HotTier::Place place = tier.Insert(key);
        if (random.Below(4) == 0 && fixed.insert(key).second) {
          HotTier::Mark(place, random.Below(2) == 0 ? HotTier::kHeld : HotTier::kWriting);
        }
      }
      const auto may_go = static_cast<uint32_t>(all.size() - fixed.size());
      const auto count = static_cast<uint32_t>(random.Below(60));
      const std::vector<HotTier::Victim> victims = tier.PickVictims(count);
      ASSERT_EQ(victims.size(), std::min(count, may_go));
      if (round % 50 < 25) continue;  // grow only
      for (const HotTier::Victim& victim : victims) {
        ASSERT_FALSE(fixed.contains(victim.key));
        ASSERT_EQ(all.erase(victim.key), 1u);
        tier.Erase(tier.Find(victim.key));
      }
      if (random.Below(10) == 0) tier.SetLimit(tier.BytesFor(random.Below(2 * all.size() + 1)));
      if (random.Below(3) == 0) tier.Maintain(random.Below(3));
    }
  }
}

}  // namespace
}  // namespace savior
