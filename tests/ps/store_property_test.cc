// Random workloads on LocalStore, every row compared exactly with a plain map.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "ps/local_store.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/naive_store.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

// Keys crowd at small ones, so that rows are updated again; a few come from anywhere. Unique, in
// random order.
std::vector<uint64_t> RandomKeys(Random* random) {
  std::vector<uint64_t> keys;
  const uint64_t n = random->Below(random->Below(8) == 0 ? 700 : 60);
  const uint64_t stride = 1 + random->Below(7);
  uint64_t key = random->Below(3000);
  for (uint64_t i = 0; i < n; ++i, key += stride) keys.push_back(key);
  if (random->Below(3) == 0) keys.push_back((*random)());
  for (size_t i = keys.size(); i > 1; --i) std::swap(keys[i - 1], keys[random->Below(i)]);
  return keys;
}

class Workload {
 public:
  static constexpr double kStepsPerMinute = 5;

  // shards: 0 takes another number at each restart.
  Workload(uint64_t seed, uint64_t budget, std::vector<TableSpec> tables, uint32_t shards)
      : random_(seed),
        seed_(seed),
        budget_(budget),
        tables_(std::move(tables)),
        shards_(shards),
        naive_(tables_, seed, kStepsPerMinute) {
    Start("");
  }

  void Run(int operations) {
    for (int i = 0; i < operations && !testing::Test::HasFatalFailure(); ++i) {
      const uint64_t what = random_.Below(100);
      const auto table = static_cast<uint32_t>(random_.Below(tables_.size()));
      if (what < 30) {
        Pull(table);
      } else if (what < 38) {
        Read(table);
      } else if (what < 46) {
        Write(table);
      } else if (what < 80) {
        Update(table);
      } else if (what < 98) {
        const std::vector<uint64_t> keys = RandomKeys(&random_);
        const TableKeys hint{.table = table, .keys = keys};
        ASSERT_TRUE(store_->Hint(step_ + static_cast<int64_t>(random_.Below(3)), {&hint, 1}).ok());
      } else if (what < 99) {
        ASSERT_TRUE(store_->CancelHints(step_ + static_cast<int64_t>(random_.Below(3))).ok());
      } else {
        Restart();
      }
    }
    CompareAll();
    CountDeeds();
  }

  // What the rules did, over all restarts: a store counts from its start.
  struct Deeds {
    uint64_t refused = 0;
    uint64_t skipped = 0;
    uint64_t evicted = 0;
  };
  const Deeds& deeds(uint32_t table) const { return deeds_[table]; }

 private:
  void Start(const std::filesystem::path& commit) {
    store_.reset();
    const auto shards = shards_ > 0 ? shards_ : static_cast<uint32_t>(1 + random_.Below(5));
    auto store = LocalStore::Open({.tables = tables_,
                                   .shards = shards,
                                   .ram_budget_bytes = budget_,
                                   .folder = folder_ / "live",
                                   .seed = seed_,
                                   .steps_per_minute = kStepsPerMinute,
                                   .restore_from = commit});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void CountDeeds() {
    const auto stats = store_->Stats(Soon())->tables;
    for (size_t t = 0; t < stats.size(); ++t) {
      deeds_[t].refused += stats[t].refused;
      deeds_[t].skipped += stats[t].skipped;
      deeds_[t].evicted += stats[t].evicted;
    }
  }

  void Restart() {
    CountDeeds();
    const std::filesystem::path commit = folder_ / ("commit-" + std::to_string(commits_++));
    ASSERT_TRUE(store_->Checkpoint(commit, Soon()).ok());
    Start(commit);
  }

  void Update(uint32_t table) {
    const TableSpec& spec = store_->tables()[table];
    const std::vector<uint64_t> keys = RandomKeys(&random_);
    std::vector<float> values = RandomFloats(keys.size() * spec.dim, &random_);
    if (spec.bad_gradients == BadGradients::kSkip && !values.empty()) {
      values[random_.Below(values.size())] = std::numeric_limits<float>::quiet_NaN();
    }
    const bool frozen = spec.kind == TableKind::kFrozen;
    const absl::Status status = frozen ? PutRows(*store_, table, keys, values)
                                       : PushRows(*store_, ++step_, table, keys, values);
    ASSERT_TRUE(status.ok()) << status;
    // A push without keys reaches no shard, and none learns of its step.
    if (!frozen && !keys.empty()) naive_.Begin(step_);
    for (size_t i = 0; i < keys.size(); ++i) {
      const float* const row = values.data() + i * spec.dim;
      frozen ? naive_.Put(table, keys[i], row) : naive_.Push(step_, table, keys[i], row);
    }
  }

  void Pull(uint32_t table) {
    const uint32_t dim = store_->tables()[table].dim;
    const std::vector<uint64_t> keys = RandomKeys(&random_);
    const Pulled pulled = PullRows(*store_, table, keys);
    for (size_t i = 0; i < keys.size(); ++i) {
      const NaiveStore::Row row = naive_.Read(table, keys[i]);
      ASSERT_EQ(pulled.updates[i], row.head.updates) << store_->tables()[table].name;
      ASSERT_TRUE(std::equal(row.weights.begin(), row.weights.end(),
                             pulled.rows.begin() + static_cast<int64_t>(i * dim)))
          << store_->tables()[table].name << ", key " << keys[i];
    }
  }

  void Read(uint32_t table) {
    const TableSpec& spec = store_->tables()[table];
    if (spec.kind == TableKind::kFrozen) return;
    const std::vector<uint64_t> keys = RandomKeys(&random_);
    const Pulled whole = ReadWhole(*store_, table, keys);
    for (size_t i = 0; i < keys.size(); ++i) {
      const NaiveStore::Row row = naive_.Read(table, keys[i]);
      ASSERT_EQ(whole.updates[i], row.head.updates) << spec.name;
      ASSERT_TRUE(std::ranges::equal(
          row.Whole(), std::span(whole.rows).subspan(i * RowFloats(spec), RowFloats(spec))))
          << spec.name << ", key " << keys[i];
    }
  }

  void Write(uint32_t table) {
    const TableSpec& spec = store_->tables()[table];
    if (spec.kind == TableKind::kFrozen) return;
    const std::vector<uint64_t> keys = RandomKeys(&random_);
    Pulled whole{.rows = RandomFloats(keys.size() * RowFloats(spec), &random_),
                 .updates = std::vector<uint32_t>(keys.size())};
    // No optimizer leaves a negative accumulator.
    for (float& value : whole.rows) value = std::abs(value);
    for (uint32_t& updates : whole.updates) {
      updates = 1 + static_cast<uint32_t>(random_.Below(1000));
    }
    // Now and then of a step that is long over.
    const int64_t step = std::max<int64_t>(0, step_ - static_cast<int64_t>(random_.Below(20)));
    const absl::Status status = WriteWhole(*store_, step, table, keys, whole);
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < keys.size(); ++i) {
      naive_.Write(step, table, keys[i], whole.rows.data() + i * RowFloats(spec), whole.updates[i]);
    }
  }

  void CompareAll() {
    for (uint32_t t = 0; t < store_->tables().size(); ++t) {
      size_t rows = 0;
      const absl::Status status = store_->ForEachRow(
          t,
          [&](const StoredRow& row) {
            ++rows;
            EXPECT_TRUE(naive_.rows(t).contains(row.key));
            EXPECT_TRUE(NaiveStore::Row::Of(row) == naive_.Read(t, row.key)) << "key " << row.key;
            return absl::OkStatus();
          },
          Soon());
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(rows, naive_.Count(t)) << store_->tables()[t].name;
      EXPECT_EQ(store_->Stats(Soon())->tables.at(t).rows, rows);
    }
  }

  Random random_;
  const uint64_t seed_;
  const uint64_t budget_;
  const std::vector<TableSpec> tables_;
  const uint32_t shards_;
  const TempFolder folder_;
  NaiveStore naive_;
  std::unique_ptr<LocalStore> store_;
  std::vector<Deeds> deeds_ = std::vector<Deeds>(tables_.size());
  int64_t step_ = 0;
  int commits_ = 0;
};

// SAVIOR_TEST_SEED repeats a run; else every run is another.
uint64_t TestSeed() {
  const char* const given = std::getenv("SAVIOR_TEST_SEED");
  if (given != nullptr) return std::strtoull(given, nullptr, 10);
  return static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) %
         1'000'000;
}

TEST(StoreProperty, FollowsTheNaiveModelWhateverTheBudget) {
  const uint64_t seed = TestSeed();
  std::cout << "SAVIOR_TEST_SEED=" << seed << std::endl;
  SCOPED_TRACE(testing::Message() << "SAVIOR_TEST_SEED=" << seed);
  // No RAM but the least, 5% of the some 2.5 MB of rows, and all of it.
  for (const uint64_t budget : {uint64_t{0}, uint64_t{125'000}, uint64_t{1} << 30}) {
    SCOPED_TRACE(testing::Message() << "budget " << budget);
    Workload workload(seed, budget, AllTables(), 0);
    workload.Run(400);
  }
}

// Tables with every rule. What is forgotten depends on the number of shards, so there is one.
std::vector<TableSpec> RuledTables() {
  std::vector<TableSpec> tables;
  const auto add = [&](const std::string& name) -> TableSpec& {
    return tables.emplace_back(IdTable(name, 8, Optimizer(OptimizerKind::kRowwiseAdagrad, 0.1f)));
  };
  add("counted").admission = {.kind = AdmissionKind::kCount, .count = 3};
  add("drawn").admission = {.kind = AdmissionKind::kProbability, .probability = 0.3f};
  add("half").dtype = StoreDtype::kFloat16;
  add("brain").dtype = StoreDtype::kBfloat16;
  add("skipping").bad_gradients = BadGradients::kSkip;
  add("idle").eviction = {.idle_steps = 40, .max_share_per_minute = 0.5f};
  add("small").eviction = {.min_score = 0.1f, .score_idle_steps = 10, .max_share_per_minute = 1};
  TableSpec& full = add("full");
  full.eviction = {.capacity_rows = 500, .floor_rows = 100, .max_share_per_minute = 0.2f};
  full.admission = {.kind = AdmissionKind::kCount, .count = 2};
  full.dtype = StoreDtype::kBfloat16;
  return tables;
}

TEST(StoreProperty, TheRulesFollowTheNaiveModelWhateverTheBudget) {
  const uint64_t seed = TestSeed();
  std::cout << "SAVIOR_TEST_SEED=" << seed << std::endl;
  SCOPED_TRACE(testing::Message() << "SAVIOR_TEST_SEED=" << seed);
  for (const uint64_t budget : {uint64_t{0}, uint64_t{125'000}, uint64_t{1} << 30}) {
    SCOPED_TRACE(testing::Message() << "budget " << budget);
    Workload workload(seed, budget, RuledTables(), 1);
    workload.Run(600);
    EXPECT_GT(workload.deeds(0).refused, 0u);
    EXPECT_GT(workload.deeds(4).skipped, 0u);
    EXPECT_GT(workload.deeds(5).evicted + workload.deeds(7).evicted, 0u);
  }
}

TEST(StoreProperty, AdmissionDoesNotDependOnTheNumberOfShards) {
  std::vector<TableSpec> tables = RuledTables();
  tables.resize(2);
  std::vector<Pulled> pulled;
  for (const uint32_t shards : {1u, 2u, 5u}) {
    const TempFolder folder;
    const auto store =
        *LocalStore::Open({.tables = tables, .shards = shards, .folder = folder.path(), .seed = 3});
    Random random(8);
    for (int64_t step = 0; step < 60; ++step) {
      for (uint32_t t = 0; t < tables.size(); ++t) {
        const std::vector<uint64_t> keys = RandomKeys(&random);
        ASSERT_TRUE(PushRows(*store, step, t, keys, RandomFloats(keys.size() * 8, &random)).ok());
      }
    }
    for (uint32_t t = 0; t < tables.size(); ++t) {
      pulled.push_back(PullRows(*store, t, Keys(0, 4000)));
    }
  }
  for (size_t i = 2; i < pulled.size(); ++i) EXPECT_EQ(pulled[i], pulled[i % 2]);
  EXPECT_GT(std::count(pulled[0].updates.begin(), pulled[0].updates.end(), 1u), 0);
}

TEST(StoreProperty, FivePercentOfTheRowsInRamIsRespected) {
  const TempFolder folder;
  std::vector<TableSpec> tables = {IdTable("t", 32)};
  constexpr uint64_t kRows = 40'000;
  constexpr uint64_t kBudget = kRows * 32 * 8 / 20;
  const auto store = *LocalStore::Open(
      {.tables = tables, .shards = 2, .ram_budget_bytes = kBudget, .folder = folder.path()});
  const std::vector<float> grads(1000 * 32, 0.5f);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t begin = 0; begin < kRows; begin += 1000) {
      ASSERT_TRUE(PushRows(*store, round, 0, Keys(begin, begin + 1000), grads).ok());
      const auto stats = store->Stats(Soon());
      ASSERT_LE(stats->tables.at(0).hot_bytes, kBudget);
    }
  }
  const auto stats = store->Stats(Soon());
  EXPECT_EQ(stats->tables.at(0).rows, kRows);
  EXPECT_GT(stats->tables.at(0).hot_bytes, kBudget / 2);
}

}  // namespace
}  // namespace savior
