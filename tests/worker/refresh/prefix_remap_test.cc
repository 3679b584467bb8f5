#include "worker/refresh/prefix_remap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "ps/local_store.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"
#include "tests/worker/refresh/thread_group.h"
#include "worker/tables.h"

namespace savior {
namespace {

constexpr size_t kLevels = 3, kCodes = 4;
constexpr uint32_t kBefore = 5, kNow = 7;  // builds
constexpr std::chrono::seconds kTimeout{60};
constexpr double kLambda = 0.25;

absl::Status Ok() { return absl::OkStatus(); }

std::vector<uint64_t> PrefixesOfCodes(std::span<const int32_t> codes, uint32_t build) {
  std::vector<uint64_t> keys;
  ForEachPrefix(build, codes, kCodes, [&](uint64_t key) { keys.push_back(key); });
  return keys;
}

// Contents with codes before and after, and a store with rows of all prefixes before.
class PrefixRemapTest : public testing::TestWithParam<OptimizerKind> {
 protected:
  struct World {
    std::vector<int32_t> before, now;  // [n, levels]
    std::vector<double> weights;       // [n]
  };

  static World RandomWorld(size_t contents) {
    Random random(3);
    World world;
    for (size_t i = 0; i < contents; ++i) {
      for (size_t l = 0; l < kLevels; ++l) {
        const auto code = static_cast<int32_t>(random.Below(kCodes));
        world.before.push_back(code);
        world.now.push_back(random.Uniform() < 0.3 ? (code + 1) % 4 : code);
      }
      world.weights.push_back(i % 7 == 0 ? 0.0 : 1.0 + static_cast<double>(random.Below(9)));
    }
    return world;
  }

  void OpenStore() {
    LocalStoreOptions options;
    options.tables = {AlignSpec("prefix", 4, Optimizer(GetParam()))};
    options.folder = folder_ / ("live-" + std::to_string(stores_++));
    options.shards = 2;
    options.ram_budget_bytes = 16 << 20;
    auto store = LocalStore::Open(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  // Some gradients, so that rows of `build` have state and 1 to 40 updates; every fifth has none.
  void Learn(const World& world, uint32_t build, int64_t step) {
    std::vector<uint64_t> keys;
    for (size_t i = 0; i < world.weights.size(); ++i) {
      const auto codes = std::span(world.before).subspan(i * kLevels, kLevels);
      for (const uint64_t key : PrefixesOfCodes(codes, build)) {
        if (Mix(key) % 5 != 0) keys.push_back(key);
      }
    }
    std::ranges::sort(keys);
    keys.erase(std::ranges::unique(keys).begin(), keys.end());
    for (uint64_t push = 0; push < 40; push += 13) {
      std::erase_if(keys, [&](uint64_t key) { return Mix(key) % 40 < push; });
      Random random(push);
      ASSERT_TRUE(PushRows(*store_, step, 0, keys, RandomFloats(keys.size() * 4, &random)).ok());
    }
  }

  // As `workers` workers, who have the contents in turn.
  std::vector<PrefixRemap> Share(const World& world, uint32_t workers, RemapKind kind) {
    std::vector<PrefixRemap> remaps(workers);
    RunAsGroup(workers, [&](Group* group) {
      World mine;
      for (size_t i = group->rank(); i < world.weights.size(); i += workers) {
        mine.weights.push_back(world.weights[i]);
        for (size_t l = 0; l < kLevels; ++l) {
          mine.before.push_back(world.before[i * kLevels + l]);
          mine.now.push_back(world.now[i * kLevels + l]);
        }
      }
      WorkBudget budget(1.0);
      auto remap = PrefixRemap::Share({kLevels, kCodes, mine.before, mine.now, mine.weights}, kind,
                                      kLambda, group, &budget);
      ASSERT_TRUE(remap.ok()) << remap.status();
      remaps[group->rank()] = *std::move(remap);
    });
    return remaps;
  }

  size_t Make(const std::vector<PrefixRemap>& remaps,
              std::optional<std::span<const uint64_t>> changed = std::nullopt) {
    size_t made = 0;
    for (const PrefixRemap& remap : remaps) {
      const auto some =
          remap.Make(*store_, {.table = 0, .build_before = kBefore, .build_now = kNow, .step = 9},
                     changed, kTimeout, Ok);
      EXPECT_TRUE(some.ok()) << some.status();
      if (some.ok()) made += *some;
    }
    return made;
  }

  using Rows = std::map<uint64_t, std::pair<std::vector<float>, uint32_t>>;  // row, updates
  Rows RowsOf(uint32_t build) {
    Rows rows;
    const auto add = [&](const StoredRow& row) {
      if (!IsOfBuild(row.key, build)) return absl::OkStatus();
      auto& [whole, updates] = rows[WithoutBuild(row.key)];
      whole.assign(row.weights.begin(), row.weights.end());
      whole.insert(whole.end(), row.state.begin(), row.state.end());
      updates = row.updates;
      return absl::OkStatus();
    };
    EXPECT_TRUE(store_->ForEachRow(0, add, Soon()).ok());
    return rows;
  }

  // The definition, of all contents at once.
  void ExpectConditionalMeans(const World& world) {
    const Rows before = RowsOf(kBefore), now = RowsOf(kNow);
    std::map<uint64_t, std::map<uint64_t, double>> joint;  // now -> before -> weight
    for (size_t i = 0; i < world.weights.size(); ++i) {
      if (world.weights[i] == 0) continue;
      const auto from = PrefixesOfCodes(std::span(world.before).subspan(i * kLevels, kLevels), 0);
      const auto to = PrefixesOfCodes(std::span(world.now).subspan(i * kLevels, kLevels), 0);
      for (size_t p = 0; p < from.size(); ++p) joint[to[p]][from[p]] += world.weights[i];
    }
    size_t exist = 0;
    uint64_t updates_before = 0, updates_now = 0, lone = 0;
    std::map<uint64_t, bool> used;
    for (const auto& [key, parts] : joint) {
      std::vector<double> mean(RowFloats(store_->tables()[0]));
      double all = kLambda;
      bool exists = false;
      for (const auto& [from, weight] : parts) {
        all += weight;
        used[from] = true;
        exists = exists || before.contains(from);
      }
      if (!exists) {
        EXPECT_FALSE(now.contains(key));
        continue;
      }
      ++exist;
      const uint64_t missing[] = {PrefixKey(99, 2, 0)};  // reads as a row begins
      const Pulled initial = ReadWhole(*store_, 0, missing);
      for (const auto& [from, weight] : parts) {
        const auto& row = before.contains(from) ? before.at(from).first : initial.rows;
        for (size_t d = 0; d < mean.size(); ++d) mean[d] += weight / all * row[d];
      }
      if (GetParam() == OptimizerKind::kAdam) std::fill_n(mean.begin() + 4, 4, 0.0);
      ASSERT_TRUE(now.contains(key)) << key;
      for (size_t d = 0; d < mean.size(); ++d) {
        EXPECT_NEAR(now.at(key).first[d], mean[d], 1e-6 + 1e-6 * std::abs(mean[d])) << key;
      }
      updates_now += now.at(key).second;
      lone += now.at(key).second == 1;
    }
    EXPECT_EQ(now.size(), exist);
    for (const auto& [from, row] : before) updates_before += used.contains(from) ? row.second : 0;
    // None is lost, and a row whose share is none of them has one.
    EXPECT_GE(updates_now, updates_before);
    EXPECT_LE(updates_now, updates_before + lone);
  }

  const TempFolder folder_;
  std::unique_ptr<LocalStore> store_;
  int stores_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Optimizers, PrefixRemapTest,
                         testing::Values(OptimizerKind::kAdagrad, OptimizerKind::kAdam,
                                         OptimizerKind::kSgd));

TEST_P(PrefixRemapTest, RowsAreConditionalMeansForAnyNumberOfWorkers) {
  const World world = RandomWorld(120);
  Rows of_one;
  for (const uint32_t workers : {1u, 2u, 3u}) {
    SCOPED_TRACE(workers);
    OpenStore();
    Learn(world, kBefore, 3);
    const Rows before = RowsOf(kBefore);
    const size_t made = Make(Share(world, workers, RemapKind::kConditionalMean));
    EXPECT_EQ(made, RowsOf(kNow).size());
    EXPECT_GT(made, 50u);
    EXPECT_EQ(RowsOf(kBefore), before) << "they may come back";
    ExpectConditionalMeans(world);
    EXPECT_EQ(Make(Share(world, workers, RemapKind::kConditionalMean)), made) << "idempotent";
    if (workers == 1) of_one = RowsOf(kNow);
    const Rows rows = RowsOf(kNow);
    ASSERT_EQ(rows.size(), of_one.size());
    for (const auto& [key, row] : rows) EXPECT_EQ(row.second, of_one.at(key).second) << key;
  }
}

// What training changes after rows were made is made again of it, and nothing else is written.
TEST_P(PrefixRemapTest, RowsThatChangedAreMadeAgain) {
  const World world = RandomWorld(120);
  OpenStore();
  Learn(world, kBefore, 3);
  const std::vector<PrefixRemap> remaps = Share(world, 2, RemapKind::kConditionalMean);
  const size_t made = Make(remaps);
  const auto changed = PrefixesOfCodes(std::span(world.before).first(kLevels), kBefore);
  Random random(8);
  ASSERT_TRUE(PushRows(*store_, 4, 0, changed, RandomFloats(changed.size() * 4, &random)).ok());
  const Rows stale = RowsOf(kNow);
  const size_t again = Make(remaps, changed);
  EXPECT_GT(again, 1u);
  EXPECT_LT(again, made / 2);
  size_t differ = 0;
  for (const auto& [key, row] : RowsOf(kNow))
    differ += !stale.contains(key) || stale.at(key) != row;
  EXPECT_GT(differ, 1u);
  EXPECT_LE(differ, again);
  ExpectConditionalMeans(world);
  EXPECT_EQ(Make(remaps, std::span<const uint64_t>()), 0u);
  const uint64_t of_nobody[] = {PrefixKey(kBefore, 4, 0)};
  EXPECT_EQ(Make(remaps, of_nobody), 0u);
}

TEST_P(PrefixRemapTest, ArmsOfTheAblation) {
  World world = RandomWorld(60);
  OpenStore();
  Learn(world, kBefore, 3);
  EXPECT_EQ(Make(Share(world, 2, RemapKind::kZero)), 0u);
  EXPECT_TRUE(RowsOf(kNow).empty());
  Make(Share(world, 2, RemapKind::kIndex));
  const Rows before = RowsOf(kBefore), now = RowsOf(kNow);
  EXPECT_FALSE(now.empty());
  for (const auto& [key, row] : now) {
    ASSERT_TRUE(before.contains(key));
    EXPECT_EQ(row.second, before.at(key).second);
    if (GetParam() != OptimizerKind::kAdam) EXPECT_EQ(row, before.at(key));
  }
}

TEST_P(PrefixRemapTest, NoContentsNoRows) {
  OpenStore();
  EXPECT_EQ(Make(Share({}, 2, RemapKind::kConditionalMean)), 0u);
  World lone = RandomWorld(1);
  lone.weights[0] = 1;
  Learn(lone, kBefore, 1);
  Make(Share(lone, 2, RemapKind::kConditionalMean));
  ExpectConditionalMeans(lone);
}

TEST_P(PrefixRemapTest, ReadsTheRowsOfContents) {
  const World world = RandomWorld(20);
  OpenStore();
  Learn(world, kBefore, 3);
  const auto rows = PrefixRowsOf(world.before, kLevels, kCodes, 0, kBefore, *store_, Soon());
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 20 * (kLevels - 1) * 4);
  const Rows there = RowsOf(kBefore);
  for (size_t i = 0; i < 20; ++i) {
    const auto keys = PrefixesOfCodes(std::span(world.before).subspan(i * kLevels, kLevels), 0);
    for (size_t p = 0; p < keys.size(); ++p) {
      const auto found = there.find(keys[p]);
      for (size_t d = 0; d < 4; ++d) {
        EXPECT_EQ((*rows)[(i * (kLevels - 1) + p) * 4 + d],
                  found == there.end() ? 0.0f : found->second.first[d]);
      }
    }
  }
  EXPECT_TRUE(PrefixRowsOf({}, kLevels, kCodes, 0, kBefore, *store_, Soon())->empty());
}

TEST_P(PrefixRemapTest, ErrorsOfTheStoreAndOfTheCallerEndIt) {
  const World world = RandomWorld(20);
  OpenStore();
  Learn(world, kBefore, 3);
  const std::vector<PrefixRemap> remaps = Share(world, 1, RemapKind::kConditionalMean);
  const PrefixRemap::Place place = {
      .table = 0, .build_before = kBefore, .build_now = kNow, .step = 9};
  EXPECT_TRUE(absl::IsCancelled(
      remaps[0]
          .Make(*store_, place, std::nullopt, kTimeout, [] { return absl::CancelledError("x"); })
          .status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      remaps[0].Make(*store_, place, std::nullopt, std::chrono::milliseconds(-1), Ok).status()));
}

}  // namespace
}  // namespace savior
