#include "ps/admission.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/random.h"
#include "common/routing.h"
#include "ps/key_counts.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

constexpr uint64_t kSeed = 11;
constexpr uint32_t kTable = 2;

TableSpec Counting(uint32_t count) {
  TableSpec spec = IdTable("item", 8);
  spec.admission = {.kind = AdmissionKind::kCount, .count = count};
  return spec;
}

TableSpec Drawing(float probability) {
  TableSpec spec = IdTable("item", 8);
  spec.admission = {.kind = AdmissionKind::kProbability, .probability = probability};
  return spec;
}

std::map<uint32_t, std::string> SavedOf(const Admission& admission) {
  std::map<uint32_t, std::string> saved;
  for (const auto& [bucket, bytes] : admission.Save()) saved[bucket] = bytes;
  return saved;
}

TEST(Admission, OfAllRefusesNone) {
  Admission admission(IdTable("item", 8), kTable, kSeed);
  for (uint64_t key = 0; key < 1000; ++key) EXPECT_TRUE(admission.Admit(key, 0));
  EXPECT_EQ(admission.admitted(), 1000u);
  EXPECT_EQ(admission.refused(), 0u);
  EXPECT_TRUE(admission.Save().empty());
  EXPECT_LT(admission.bytes(), 200u);
}

TEST(Admission, ByProbabilityDrawsFromSeedTableKeyAndStep) {
  Admission admission(Drawing(0.25f), kTable, kSeed);
  std::vector<bool> drawn;
  for (uint64_t key = 0; key < 200; ++key) {
    for (int64_t step = 0; step < 200; ++step) drawn.push_back(admission.Admit(key, step));
  }
  const auto share = [](const std::vector<bool>& draws) {
    return static_cast<double>(std::ranges::count(draws, true)) / static_cast<double>(draws.size());
  };
  EXPECT_NEAR(share(drawn), 0.25, 0.011);  // five standard deviations
  // In another order, in another object, under another number: the same.
  Admission again(Drawing(0.25f), kTable + 1, kSeed);
  for (uint64_t key = 200; key-- > 0;) {
    for (int64_t step = 200; step-- > 0;) {
      EXPECT_EQ(again.Admit(key, step), drawn[key * 200 + static_cast<uint64_t>(step)]);
    }
  }
  EXPECT_EQ(admission.admitted() + admission.refused(), 40'000u);
  // Another seed or name draws independently: a quarter of a quarter in common.
  TableSpec renamed = Drawing(0.25f);
  renamed.name = "user";
  Admission reseeded(Drawing(0.25f), kTable, kSeed + 1);
  Admission of_other_table(renamed, kTable, kSeed);
  for (Admission* other : {&reseeded, &of_other_table}) {
    std::vector<bool> both;
    for (uint64_t key = 0; key < 200; ++key) {
      for (int64_t step = 0; step < 200; ++step) {
        both.push_back(other->Admit(key, step) && drawn[both.size()]);
      }
    }
    EXPECT_NEAR(share(both), 0.0625, 0.007);
  }
}

TEST(Admission, ProbabilityOneRefusesNone) {
  Admission admission(Drawing(1.0f), kTable, kSeed);
  for (uint64_t key = 0; key < 10'000; ++key) ASSERT_TRUE(admission.Admit(key, 7));
}

TEST(Admission, ByCountIsTheCountthPush) {
  for (uint32_t count = 2; count <= 15; ++count) {
    Admission admission(Counting(count), kTable, kSeed);
    for (const uint64_t key : {uint64_t{0}, uint64_t{1}, UINT64_MAX}) {
      for (int round = 0; round < 2; ++round) {  // once forgotten, it starts anew
        for (uint32_t push = 1; push < count; ++push) {
          EXPECT_FALSE(admission.Admit(key, push)) << count;
        }
        EXPECT_TRUE(admission.Admit(key, 100)) << count;
      }
    }
    EXPECT_EQ(admission.admitted(), 6u);
    EXPECT_EQ(admission.refused(), 6u * (count - 1));
  }
}

// Against an exact count of every key.
TEST(Admission, ByCountIsNearlyExactBelowTheDesignLoad) {
  for (const uint32_t count : {2u, 3u, 5u, 15u}) {
    Admission admission(Counting(count), kTable, kSeed);
    std::unordered_map<uint64_t, uint32_t> pushes;
    Random random(count);
    uint64_t early = 0;
    uint64_t late = 0;
    uint64_t on_time = 0;
    for (int i = 0; i < 600'000; ++i) {
      // Popularity falls with the square root: many keys come once or twice.
      const double u = random.Uniform();
      const auto key = static_cast<uint64_t>(u * u * 100'000);
      const bool due = ++pushes[key] >= count;
      const bool admitted = admission.Admit(key, i);
      if (admitted) pushes.erase(key);
      on_time += admitted && due ? 1 : 0;
      early += admitted && !due ? 1 : 0;
      late += !admitted && due ? 1 : 0;
    }
    EXPECT_LE(static_cast<double>(early), 0.002 * static_cast<double>(on_time)) << count;
    EXPECT_LE(static_cast<double>(late), 0.002 * static_cast<double>(on_time)) << count;
    RecordProperty("early_per_million_limit_" + std::to_string(count),
                   std::to_string(1'000'000 * early / on_time));
  }
}

TEST(Admission, DoesNotDependOnHowManyShardsThereAre) {
  std::vector<std::unique_ptr<Admission>> shards;
  const std::vector<uint32_t> map = EvenBucketMap(3);
  for (int s = 0; s < 3; ++s) {
    shards.push_back(std::make_unique<Admission>(Counting(3), kTable, kSeed));
  }
  Admission one(Counting(3), kTable, kSeed);
  Random random(1);
  for (int i = 0; i < 300'000; ++i) {
    const uint64_t key = random.Below(100'000);
    ASSERT_EQ(shards[map[BucketOf(kTable, key)]]->Admit(key, i), one.Admit(key, i));
  }
  std::map<uint32_t, std::string> saved;
  for (const auto& shard : shards) saved.merge(SavedOf(*shard));
  EXPECT_EQ(saved, SavedOf(one));
}

TEST(Admission, SavedAndLoadedGoesOnAlike) {
  Admission original(Counting(4), kTable, kSeed);
  Random random(2);
  // Few keys' buckets would never be full: these are all of 16 buckets.
  std::vector<uint64_t> keys;
  for (uint64_t key = 0; keys.size() < 16 * 3000; ++key) {
    if (BucketOf(kTable, key) < 16) keys.push_back(key);
  }
  const auto key = [&] { return keys[random.Below(keys.size())]; };
  for (int i = 0; i < 60'000; ++i) original.Admit(key(), i);
  Admission loaded(Counting(4), kTable, kSeed);
  for (const auto& [bucket, bytes] : original.Save()) {
    ASSERT_TRUE(loaded.Load(bucket, bytes).ok());
  }
  for (int i = 0; i < 60'000; ++i) {
    const uint64_t next = key();
    ASSERT_EQ(loaded.Admit(next, i), original.Admit(next, i));
  }
  EXPECT_EQ(SavedOf(loaded), SavedOf(original));
}

TEST(Admission, OfAnotherCountStartsAnew) {
  Admission original(Counting(4), kTable, kSeed);
  for (uint64_t key = 0; key < 100; ++key) EXPECT_FALSE(original.Admit(key, 0));
  for (const TableSpec& spec : {Counting(2), IdTable("item", 8), Drawing(0.5f)}) {
    Admission other(spec, kTable, kSeed);
    for (const auto& [bucket, bytes] : original.Save()) {
      EXPECT_TRUE(other.Load(bucket, bytes).ok());
      EXPECT_TRUE(absl::IsDataLoss(other.Load(bucket, bytes.substr(1))));
    }
    EXPECT_TRUE(other.Save().empty());
  }
}

TEST(Admission, GarbageIsDataLoss) {
  Admission original(Counting(3), kTable, kSeed);
  uint64_t in_bucket = 0;
  for (uint64_t key = 0; in_bucket < 100; ++key) {
    if (BucketOf(kTable, key) != 7) continue;
    original.Admit(key, 0);
    ++in_bucket;
  }
  const std::string good = original.Save().at(0).bytes;
  Admission loaded(Counting(3), kTable, kSeed);
  EXPECT_TRUE(absl::IsDataLoss(loaded.Load(kBuckets, good)));
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_TRUE(absl::IsDataLoss(loaded.Load(7, good.substr(0, n))));
  }
  EXPECT_TRUE(absl::IsDataLoss(loaded.Load(7, good + "x")));
  EXPECT_TRUE(loaded.Save().empty());
  // Flipped bits are refused, or give counts that work.
  Random random(5);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string bad = good;
    for (uint64_t flips = 1 + random.Below(3); flips > 0; --flips) {
      bad[random.Below(bad.size())] ^= static_cast<char>(1u << random.Below(8));
    }
    Admission other(Counting(3), kTable, kSeed);
    const absl::Status status = other.Load(7, bad);
    if (!status.ok()) {
      EXPECT_TRUE(absl::IsDataLoss(status));
      ++refused;
    }
    for (uint64_t key = 0; key < 3; ++key) other.Admit(key, 0);
  }
  EXPECT_GT(refused, 1000);
}

TEST(KeyCounts, AdmitsAtMostOneInAHundredEarlyWhenFull) {
  for (uint32_t limit = 2; limit <= KeyCounts::kMaxLimit; ++limit) {
    Random random(limit);
    uint64_t keys = 0;
    uint64_t early = 0;
    for (int bucket = 0; bucket < 20; ++bucket) {
      KeyCounts counts(limit);
      // As many pushes as may be without being admitted: the worst there is.
      std::vector<uint64_t> hashes(KeyCounts::kMaxKeys);
      for (uint64_t& hash : hashes) hash = random();
      for (uint32_t push = 1; push < limit; ++push) {
        for (const uint64_t hash : hashes) {
          // A tenth stays behind: keys nearly there are fewer than those that come once.
          if (push == 1 || random.Uniform() < 0.5) early += counts.Push(hash) ? 1 : 0;
        }
      }
      keys += hashes.size();
    }
    EXPECT_LE(static_cast<double>(early), 0.01 * static_cast<double>(keys)) << limit;
    RecordProperty("early_per_million_limit_" + std::to_string(limit),
                   std::to_string(1'000'000 * early / keys));
  }
}

TEST(KeyCounts, CostsAtMostTwoBytesPerKeyAtTheDesignLoad) {
  Random random(3);
  KeyCounts counts(2);
  const size_t empty = counts.bytes();
  EXPECT_LE(empty, 320u);
  for (uint32_t pushed = 1; pushed <= 4 * KeyCounts::kMaxKeys; ++pushed) {
    counts.Push(random());
    ASSERT_LE(static_cast<double>(counts.bytes() - empty), 1.5 * 1.15 * counts.keys() + 64);
    if (counts.keys() < 1000) continue;
    ASSERT_LE(counts.bytes(), 2 * counts.keys());
  }
  EXPECT_GE(counts.keys(), KeyCounts::kMaxKeys - 20);
  EXPECT_LE(counts.keys(), KeyCounts::kMaxKeys);
}

// A plain model: groups as vectors of (fingerprint, counter).
TEST(KeyCounts, DoesWhatAPlainListDoes) {
  for (const uint32_t limit : {2u, 3u, 4u, 9u, 15u}) {
    Random random(limit);
    KeyCounts counts(limit);
    std::vector<std::vector<std::pair<uint32_t, uint32_t>>> groups(KeyCounts::kGroups);
    const uint32_t bits = 12 - static_cast<uint32_t>(std::bit_width(limit - 2));
    uint32_t keys = 0;
    std::vector<uint64_t> hashes(1900);
    for (uint64_t& hash : hashes) hash = random();
    for (int i = 0; i < 60'000; ++i) {
      const uint64_t hash = hashes[random.Below(hashes.size())];
      auto& group = groups[hash >> 55];
      const auto print = static_cast<uint32_t>(hash & ((1u << bits) - 1));
      const auto found = std::ranges::find(group, print, &std::pair<uint32_t, uint32_t>::first);
      bool due = false;
      if (found == group.end()) {
        ASSERT_LT(group.size(), 15u);
        group.emplace_back(print, 1);
        ++keys;
      } else if (++found->second == limit) {
        group.erase(found);
        --keys;
        due = true;
      }
      ASSERT_EQ(counts.Push(hash), due) << "limit " << limit << ", push " << i;
      ASSERT_EQ(counts.keys(), keys);
    }
  }
}

TEST(KeyCounts, WhenFullForgetsWhatComesSeldomAndKeepsWhatComesOften) {
  Random random(6);
  KeyCounts counts(8);
  // A key that comes once in 500 pushes, among keys that come once only.
  const uint64_t often = random();
  uint32_t pushes = 0;
  for (int i = 1; i <= 50'000; ++i) {
    counts.Push(random());
    if (i < 10'000 || i % 500 != 0) continue;
    ++pushes;
    if (counts.Push(often)) break;
  }
  EXPECT_GE(pushes, 7u);
  EXPECT_LE(pushes, 20u);
  EXPECT_LE(counts.keys(), KeyCounts::kMaxKeys);
}

TEST(KeyCounts, KeysOfOneGroupAreBounded) {
  KeyCounts counts(3);
  Random random(8);
  for (int i = 0; i < 1000; ++i) counts.Push(random() >> 9);  // all of group 0
  EXPECT_EQ(counts.keys(), 15u);
  const uint64_t hash = random() >> 9;
  EXPECT_FALSE(counts.Push(hash));
  EXPECT_FALSE(counts.Push(hash));
  EXPECT_TRUE(counts.Push(hash));
}

}  // namespace
}  // namespace savior
