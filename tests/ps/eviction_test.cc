#include "ps/eviction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/routing.h"
#include "ps/row_ages.h"

namespace savior {
namespace {

constexpr EvictionSpec kIdle{.idle_steps = 100};

// A table that never deletes a row: every row as it was pushed last, and whether it is expired
// asked anew each time.
class Table {
 public:
  explicit Table(const EvictionSpec& spec) : eviction(spec) {}

  void Push(int64_t step, uint64_t key, bool low = false) {
    const auto found = rows_.find(key);
    if (found != rows_.end() && !Expired(found->first)) {
      eviction.Touch(key, found->second.step, found->second.low, step, low);
    } else {
      eviction.Add(key, step, low);
    }
    rows_[key] = {step, low};
  }

  bool Expired(uint64_t key) const {
    const Row& row = rows_.at(key);
    return eviction.Expired(key, row.step, row.low);
  }
  std::set<uint64_t> Live() const {
    std::set<uint64_t> live;
    for (const auto& [key, row] : rows_) {
      if (!Expired(key)) live.insert(key);
    }
    return live;
  }
  // The age at `step` of the live row idle longest.
  int64_t OldestAge(int64_t step, bool low) const {
    int64_t age = 0;
    for (const auto& [key, row] : rows_) {
      if (row.low == low && !Expired(key)) age = std::max(age, step - row.step);
    }
    return age;
  }

  Eviction eviction;

 private:
  struct Row {
    int64_t step;
    bool low;
  };
  std::map<uint64_t, Row> rows_;
};

TEST(Eviction, OfNoRowsAndOfOne) {
  Table table(kIdle);
  for (int64_t step = 0; step < 1000; ++step) {
    table.eviction.Advance(step, static_cast<double>(step));
  }
  EXPECT_EQ(table.eviction.live(), 0u);
  EXPECT_EQ(table.eviction.evicted(), 0u);
  table.Push(1000, 5);
  table.eviction.Advance(1100, 1100);
  EXPECT_FALSE(table.Expired(5));
  // 1000 < 1101 - 100. A hundredth of a row a minute: it waits for the hundredth minute.
  for (int64_t step = 1101; step < 1200; ++step) {
    table.eviction.Advance(step, static_cast<double>(step));
    EXPECT_FALSE(table.Expired(5)) << step;
  }
  table.eviction.Advance(1200, 1200);
  EXPECT_TRUE(table.Expired(5));
  EXPECT_EQ(table.eviction.live(), 0u);
  EXPECT_EQ(table.eviction.evicted(), 1u);
  table.Push(1200, 5);  // a new row
  EXPECT_FALSE(table.Expired(5));
  EXPECT_EQ(table.eviction.live(), 1u);
}

TEST(Eviction, IdleRowsGoAndNoOthers) {
  EvictionSpec spec = kIdle;
  spec.max_share_per_minute = 1;
  Table table(spec);
  // Key k is pushed every k steps: those up to 100 are never idle for more than 100.
  for (int64_t step = 0; step <= 2000; ++step) {
    table.eviction.Advance(step, static_cast<double>(step));
    for (int64_t key = 1; key <= 400; ++key) {
      if (step % key == 0) table.Push(step, static_cast<uint64_t>(key));
    }
    ASSERT_EQ(table.Live().size(), table.eviction.live());
    for (uint64_t key = 1; key <= 100; ++key) ASSERT_FALSE(table.Expired(key)) << step;
    // A bin of one step more, while bins are that wide.
    ASSERT_LE(table.OldestAge(step, false), 101) << step;
  }
  EXPECT_GT(table.eviction.evicted(), 300u);
}

TEST(Eviction, InAMinuteNoMoreThanItsShareGoes) {
  for (const float share : {0.01f, 0.05f, 1.0f}) {
    EvictionSpec spec = kIdle;
    spec.max_share_per_minute = share;
    Table table(spec);
    Random random(3);
    // A population that grows for 300 steps and is then mostly deserted. A minute is 5 steps.
    for (int64_t step = 0; step < 1500; ++step) {
      const uint64_t keys = step < 300 ? 12'000 : 200;
      for (int push = 0; push < 30; ++push) table.Push(step, random.Below(keys));
      if (step % 5 != 0 && step % 7 != 0) continue;
      const size_t before = table.Live().size();
      table.eviction.Advance(step, static_cast<double>(step) / 5);
      const std::set<uint64_t> live = table.Live();
      ASSERT_EQ(live.size(), table.eviction.live());
      ASSERT_LE(static_cast<double>(before - live.size()),
                share * static_cast<double>(before) + 1e-3)
          << "step " << step << " of share " << share;
      if (step % 5 != 0) {
        ASSERT_EQ(before, live.size()) << step;
      }
    }
    // Of 6,300 rows, at 5% and 100% a minute all deserted ones are gone, at 1% most.
    if (share > 0.01f) {
      EXPECT_LE(table.eviction.live(), 250u);
    }
    EXPECT_GT(table.eviction.evicted(), 5000u);
  }
}

TEST(Eviction, RowsOfOneStepGoInParts) {
  Table table(kIdle);
  for (uint64_t key = 0; key < 20'000; ++key) table.Push(0, key);
  size_t before = 20'000;
  int minutes = 0;
  for (; before > 0 && minutes < 3000; ++minutes) {
    table.eviction.Advance(101 + minutes, 1 + minutes);
    const size_t after = table.eviction.live();
    // Or one of 256 cells, of about 78.
    ASSERT_LE(static_cast<double>(before - after),
              std::max(110.0, 0.01 * static_cast<double>(before) + 1e-3));
    if (minutes % 50 == 0) {
      ASSERT_EQ(table.Live().size(), after);
    }
    before = after;
  }
  EXPECT_EQ(before, 0u);
  EXPECT_GT(minutes, 300);  // 1% of what is left each minute: e^-n of it after 100 n
}

TEST(Eviction, LowRowsGoSooner) {
  EvictionSpec spec{.idle_steps = 1000, .min_score = 0.1f, .score_idle_steps = 50};
  spec.max_share_per_minute = 1;
  Table table(spec);
  for (int64_t step = 0; step <= 400; ++step) {
    table.eviction.Advance(step, static_cast<double>(step));
    const auto key = static_cast<uint64_t>(step);
    table.Push(step, key, /*low=*/key % 2 == 0);
    if (step >= 20) table.Push(step, key - 20, /*low=*/key % 4 == 0);  // some change their class
    ASSERT_EQ(table.Live().size(), table.eviction.live());
    ASSERT_LE(table.OldestAge(step, true), 53);  // by bins of up to 4 steps
  }
  EXPECT_GT(table.OldestAge(400, false), 370);
  EXPECT_GT(table.eviction.evicted(), 50u);
}

TEST(Eviction, ScoreIsTheRootMeanSquareWeight) {
  EvictionSpec spec{.min_score = 0.5f, .score_idle_steps = 1};
  const Eviction eviction(spec);
  EXPECT_FALSE(eviction.IsLow(std::vector<float>(8, 0.5f)));
  EXPECT_FALSE(eviction.IsLow(std::vector<float>{-1, 0, 0, 0}));
  EXPECT_TRUE(eviction.IsLow(std::vector<float>{0.99f, 0, 0, 0}));
  EXPECT_TRUE(eviction.IsLow(std::vector<float>(512, -0.499f)));
  EXPECT_FALSE(eviction.IsLow(std::vector<float>(4, std::nanf(""))));
  EXPECT_FALSE(Eviction(kIdle).IsLow(std::vector<float>(4, 0.0f)));
}

TEST(Eviction, BeyondTheCapacityTheOldestGo) {
  EvictionSpec spec{.capacity_rows = 500};
  spec.max_share_per_minute = 0.5f;
  Table table(spec);
  for (int64_t step = 0; step < 200; ++step) {
    table.eviction.Advance(step, static_cast<double>(step));
    if (step > 50) {
      // 20 more are pushed each step. A cell that goes may have been more than one row.
      ASSERT_LE(table.eviction.live(), 500u);
      ASSERT_GE(table.eviction.live(), 495u);
      // The oldest 25 steps, but for the bin that goes in parts.
      ASSERT_LE(table.OldestAge(step, false), 26);
    }
    for (uint64_t k = 0; k < 20; ++k) {
      table.Push(step, static_cast<uint64_t>(step) * 20 + k, /*low=*/k % 3 == 0);
    }
  }
  ASSERT_EQ(table.Live().size(), table.eviction.live());
}

TEST(Eviction, RowsOfThePresentStepNeverGo) {
  EvictionSpec spec{.min_score = 1, .capacity_rows = 1};
  spec.max_share_per_minute = 1;
  Table table(spec);
  for (int64_t step = 0; step < 700; ++step) {  // beyond the first doubling of the width
    const int64_t now = step * 3;
    table.eviction.Advance(now, static_cast<double>(step));
    for (uint64_t key = 0; key < 20; ++key) table.Push(now, key, key % 2 == 0);
    for (uint64_t key = 0; key < 20; ++key) ASSERT_FALSE(table.Expired(key));
  }
}

TEST(Eviction, TheFloorStaysUnlessTheCapacityIsLess) {
  EvictionSpec spec{.idle_steps = 10, .min_score = 1, .score_idle_steps = 5, .floor_rows = 300};
  spec.max_share_per_minute = 1;
  for (const uint64_t capacity : {0, 100}) {
    spec.capacity_rows = capacity;
    Table table(spec);
    for (uint64_t key = 0; key < 1000; ++key) table.Push(0, key, key % 2 == 0);
    for (int64_t minute = 1; minute < 100; ++minute) table.eviction.Advance(minute * 10, minute);
    if (capacity == 0) {
      EXPECT_GE(table.eviction.live(), 300u);
      EXPECT_LE(table.eviction.live(), 310u);
    } else {
      EXPECT_LE(table.eviction.live(), 100u);
      EXPECT_GE(table.eviction.live(), 90u);
    }
    EXPECT_EQ(table.Live().size(), table.eviction.live());
  }
}

TEST(Eviction, AClockThatStandsStillOrJumpsAllowsOneShare) {
  Table table(kIdle);
  for (uint64_t key = 0; key < 50'000; ++key) table.Push(static_cast<int64_t>(key / 500), key);
  Eviction& eviction = table.eviction;
  eviction.Advance(1000, 10);
  const uint64_t first = eviction.evicted();
  EXPECT_GT(first, 450u);
  EXPECT_LE(first, 500u);
  const std::string saved = eviction.Save();
  for (const double minutes :
       {10.0, 10.99, 9.0, -1e300, 0.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    eviction.Advance(1000, minutes);
    eviction.Advance(999, minutes);
    EXPECT_EQ(eviction.Save(), saved) << minutes;
  }
  eviction.Advance(1001, 10.5);
  EXPECT_EQ(eviction.evicted(), first);
  eviction.Advance(1002, 10'000);  // a night
  EXPECT_LE(eviction.evicted() - first, 500u);
  eviction.Advance(1003, 11);  // back by as much
  EXPECT_LE(eviction.evicted() - first, 500u);
}

TEST(Eviction, ALongWaitForNothingIsNoReserve) {
  Table table(kIdle);
  for (uint64_t key = 0; key < 10'000; ++key) table.Push(0, key);
  for (int64_t minute = 1; minute <= 100; ++minute) table.eviction.Advance(minute, minute);
  EXPECT_EQ(table.eviction.evicted(), 0u);
  table.eviction.Advance(101, 101);
  EXPECT_GT(table.eviction.evicted(), 0u);
  EXPECT_LE(table.eviction.evicted(), 100u);
}

// All rules, rows of all ages and both classes, over several doublings of the width.
constexpr EvictionSpec kAllRules{.idle_steps = 2000,
                                 .min_score = 0.1f,
                                 .score_idle_steps = 300,
                                 .capacity_rows = 1500,
                                 .floor_rows = 400,
                                 .max_share_per_minute = 0.02f};

void RandomStep(int64_t step, Random* random, const std::vector<Table*>& tables) {
  for (Table* table : tables) table->eviction.Advance(step, static_cast<double>(step) / 10);
  // In bursts, with new keys all the time.
  const uint64_t pushes = step / 500 % 2 == 0 ? 4 : random->Below(2);
  for (uint64_t push = 0; push < pushes; ++push) {
    const uint64_t key = random->Below(500 + static_cast<uint64_t>(step));
    const bool low = random->Below(3) == 0;
    for (Table* table : tables) table->Push(step, key, low);
  }
}

TEST(Eviction, CountsAreExact) {
  Table table(kAllRules);
  Random random(1);
  for (int64_t step = 0; step < 20'000; ++step) {
    RandomStep(step, &random, {&table});
    if (step % 37 == 0) {
      ASSERT_EQ(table.Live().size(), table.eviction.live()) << step;
    }
  }
  EXPECT_GT(table.eviction.evicted(), 10'000u);
  EXPECT_LE(table.eviction.bytes(), 2 * 256 * 1040 + 10'000);
}

TEST(Eviction, SavedAndLoadedGoesOnAlike) {
  Table one(kAllRules);
  Random random(1);
  for (int64_t step = 0; step < 9'995; ++step) RandomStep(step, &random, {&one});
  Table other = one;  // its rows, with an eviction of its own
  const std::string saved = one.eviction.Save();
  Eviction loaded(kAllRules);
  ASSERT_TRUE(loaded.Load(saved).ok());
  EXPECT_EQ(loaded.Save(), saved);
  EXPECT_EQ(loaded.live(), one.eviction.live());
  std::destroy_at(&other.eviction);
  std::construct_at(&other.eviction, loaded);
  for (int64_t step = 9'995; step < 15'000; ++step) {
    RandomStep(step, &random, {&one, &other});
    if (step % 100 == 0) {
      ASSERT_EQ(other.Live(), one.Live());
    }
  }
  EXPECT_EQ(other.eviction.Save(), one.eviction.Save());
}

TEST(Eviction, CountedAnewItGoesOn) {
  Table one(kAllRules);
  Random random(1);
  for (int64_t step = 0; step < 10'000; ++step) RandomStep(step, &random, {&one});
  EvictionSpec spec = kAllRules;
  spec.min_score = 0.2f;
  Table other(spec);
  EXPECT_TRUE(absl::IsFailedPrecondition(other.eviction.Load(one.eviction.Save())));
  EXPECT_EQ(other.eviction.live(), 0u);
  // In any order of steps.
  for (const uint64_t key : one.Live()) {
    other.Push(static_cast<int64_t>(Mix(key) % 10'000), key, key % 2 == 0);
  }
  EXPECT_EQ(other.eviction.live(), one.eviction.live());
  EXPECT_EQ(other.Live(), one.Live());
  for (int64_t step = 10'000; step < 12'000; ++step) {
    RandomStep(step, &random, {&other});
    if (step % 37 == 0) {
      ASSERT_EQ(other.Live().size(), other.eviction.live());
    }
  }
}

TEST(Eviction, ShardsThatFollowForgetWhatOneWouldForget) {
  constexpr uint32_t kShards = 3;
  const std::vector<uint32_t> map = EvenBucketMap(kShards);
  Table one(kAllRules);
  Eviction decider(kAllRules);
  std::vector<std::unique_ptr<Table>> shards;
  std::vector<const Eviction*> parts;
  for (uint32_t s = 0; s < kShards; ++s) {
    shards.push_back(std::make_unique<Table>(kAllRules));
    parts.push_back(&shards[s]->eviction);
  }
  Random random(2);
  for (int64_t step = 0; step < 12'000; ++step) {
    one.eviction.Advance(step, static_cast<double>(step) / 10);
    if (step % 10 == 0) {
      decider.Recount(parts);
      decider.Advance(step, static_cast<double>(step) / 10);
      for (auto& shard : shards) shard->eviction.Follow(step, decider.horizons());
    }
    uint64_t live = 0;
    for (auto& shard : shards) live += shard->eviction.live();
    ASSERT_EQ(live, one.eviction.live()) << step;
    ASSERT_EQ(decider.horizons(), one.eviction.horizons()) << step;
    for (int push = 0; push < 2; ++push) {
      const uint64_t key = random.Below(500 + static_cast<uint64_t>(step));
      const bool low = random.Below(3) == 0;
      one.Push(step, key, low);
      shards[map[BucketOf(0, key)]]->Push(step, key, low);
    }
  }
  EXPECT_GT(one.eviction.evicted(), 5'000u);
}

TEST(Eviction, GarbageIsDataLoss) {
  Table table(kAllRules);
  Random random(1);
  for (int64_t step = 0; step < 600; ++step) RandomStep(step, &random, {&table});
  const std::string good = table.eviction.Save();
  Eviction loaded(kAllRules);
  const std::string empty = loaded.Save();
  for (size_t n = 0; n < good.size(); n += n < 100 ? 1 : 997) {
    EXPECT_TRUE(absl::IsDataLoss(loaded.Load(good.substr(0, n))));
  }
  EXPECT_TRUE(absl::IsDataLoss(loaded.Load(good + "x")));
  EXPECT_EQ(loaded.Save(), empty);
  // Flipped bits are refused, or give a state that works.
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    const size_t within = i % 2 == 0 ? 60 : bad.size();
    bad[random.Below(within)] ^= static_cast<char>(1u << random.Below(8));
    Eviction other(kAllRules);
    if (!other.Load(bad).ok()) continue;
    other.Add(1, other.step(), false);
    other.Touch(1, other.step(), false, other.step() + 1, true);
    for (int64_t k = 0; k < 20; ++k) {
      other.Advance(other.step() + 500, static_cast<double>(other.step()));
      ASSERT_LE(other.live(), uint64_t{1} << 33);
    }
  }
}

TEST(RowAges, ReachTheEndOfAllStepsInBoundedMemory) {
  RowAges ages;
  std::vector<int64_t> steps;
  for (int64_t step = 1; step <= 0xffffffff; step *= 2) steps.push_back(step - 1);
  steps.push_back(0xffffffff);
  for (const int64_t step : steps) ages.Add(step, 7);
  EXPECT_EQ(ages.rows(), steps.size());
  EXPECT_EQ(ages.width(), 1 << 24);
  EXPECT_LE(ages.bytes(), 256u * 1040);
  EXPECT_EQ(ages.Oldest()->end, 1 << 24);
  EXPECT_EQ(ages.Oldest()->rows, 25u);
  for (const int64_t step : steps) ages.Remove(step, 7);
  EXPECT_EQ(ages.rows(), 0u);
  EXPECT_FALSE(ages.Oldest().has_value());
}

TEST(RowAges, TakesWhatItAppends) {
  RowAges ages;
  for (int64_t step = 1000; step < 3000; ++step) ages.Add(step, static_cast<uint32_t>(step % 256));
  std::string bytes;
  ages.Append(&bytes);
  std::string_view rest = bytes;
  RowAges taken;
  ASSERT_TRUE(taken.Take(&rest));
  EXPECT_TRUE(rest.empty());
  EXPECT_EQ(taken.rows(), 2000u);
  std::string again;
  taken.Append(&again);
  EXPECT_EQ(again, bytes);
}

}  // namespace
}  // namespace savior
