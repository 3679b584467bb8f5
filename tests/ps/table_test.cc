#include "ps/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "ps/ram_budget.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

using ::testing::ElementsAre;

// A table over a cold store of its own.
class TableTest : public testing::Test {
 protected:
  void Make(const TableSpec& spec, uint64_t limit_bytes) {
    cold_ = *ColdStore::Open(folder_ / "db", {spec.name});
    table_ = std::make_unique<Table>(spec, 0, 1, 0, cold_.get(), limit_bytes, uint64_t{1} << 24);
  }
  static std::vector<uint32_t> Positions(size_t n) {
    std::vector<uint32_t> positions(n);
    std::iota(positions.begin(), positions.end(), 0);
    return positions;
  }
  void Push(int64_t step, const std::vector<uint64_t>& keys, float grad) {
    const std::vector<float> grads(keys.size() * table_->spec().dim, grad);
    const absl::Status status = table_->Push(step, {keys, Positions(keys.size())}, grads.data());
    ASSERT_TRUE(status.ok()) << status;
  }
  std::vector<float> Pull(const std::vector<uint64_t>& keys) {
    std::vector<float> rows(keys.size() * table_->spec().dim);
    const absl::Status status = table_->Pull({keys, Positions(keys.size())}, rows.data(), nullptr);
    EXPECT_TRUE(status.ok()) << status;
    return rows;
  }

  // A hint, and at once what it asks for.
  void Bring(int64_t step, const std::vector<uint64_t>& keys) {
    std::optional<ColdRead> read = table_->Hint(step, keys);
    if (!read.has_value()) return;
    read->Run(*cold_);
    const absl::Status status = table_->FinishRead(*read);
    ASSERT_TRUE(status.ok()) << status;
  }

  const TempFolder folder_;
  std::unique_ptr<ColdStore> cold_;
  std::unique_ptr<Table> table_;
};

const TableSpec kSpec = AlignSpec("t", 4, Optimizer(OptimizerKind::kSgd, 1));

TEST_F(TableTest, EvictedRowsComeBackAsTheyWere) {
  Make(kSpec, 0);  // 16 rows in RAM
  for (uint64_t key = 0; key < 100; ++key) Push(3, {key}, -static_cast<float>(key));
  const TableStats stats = table_->Stats();
  EXPECT_EQ(stats.rows, 100u);
  EXPECT_EQ(stats.hot_rows, 16u);
  EXPECT_EQ(stats.written_back, 84u);
  for (uint64_t key = 0; key < 100; ++key) {
    EXPECT_EQ(Pull({key}), std::vector<float>(4, static_cast<float>(key)));
  }
  Push(4, Keys(0, 100), -1);
  EXPECT_EQ(Pull({50}), std::vector<float>(4, 51));
  EXPECT_EQ(table_->rows(), 100u);
}

TEST_F(TableTest, CleanRowsAreDroppedWithoutAWrite) {
  Make(kSpec, 0);
  Push(1, Keys(0, 64), 1);
  ASSERT_TRUE(table_->WriteBack().ok());
  const uint64_t written = table_->Stats().written_back;
  Pull(Keys(0, 64));
  EXPECT_EQ(table_->Stats().written_back, written);
}

TEST_F(TableTest, PullsCreateNothing) {
  Make(kSpec, 1 << 20);
  Pull(Keys(0, 100));
  EXPECT_EQ(table_->rows(), 0u);
  EXPECT_EQ(table_->Stats().missing, 100u);
  EXPECT_EQ(table_->Stats().hot_rows, 0u);
}

TEST_F(TableTest, HintedRowsAreInRam) {
  Make(kSpec, 1 << 20);
  Push(1, Keys(0, 1000), 1);
  ASSERT_TRUE(table_->SetLimit(0).ok());
  ASSERT_TRUE(table_->SetLimit(1 << 20).ok());
  EXPECT_EQ(table_->Stats().hot_rows, 16u);
  std::vector<uint64_t> keys = Keys(500, 1500);
  keys.insert(keys.end(), 300, 501);  // hints may repeat keys
  Bring(2, keys);
  const uint64_t hits = table_->Stats().hot_hits;
  Pull(Keys(500, 1000));
  EXPECT_EQ(table_->Stats().hot_hits, hits + 500);
}

TEST_F(TableTest, HintedRowsStayUntilALaterStep) {
  Make(kSpec, 1 << 16);
  const uint64_t many = 20'000;
  for (uint64_t key = 0; key < many; key += 1000) Push(1, Keys(key, key + 1000), 1);
  const std::vector<uint64_t> hinted = Keys(0, 100);
  const auto hits = [&] {
    const uint64_t before = table_->Stats().hot_hits;
    Pull(hinted);
    return table_->Stats().hot_hits - before;
  };
  const auto flood = [&](int64_t step) {
    for (uint64_t key = 1000; key < many; key += 1000) Push(step, Keys(key, key + 1000), 1);
    for (uint64_t key = 1000; key < many; key += 1000) Pull(Keys(key, key + 1000));
  };
  Bring(5, hinted);
  flood(4);
  EXPECT_EQ(hits(), 100u);
  flood(5);
  EXPECT_EQ(hits(), 100u);
  flood(6);
  flood(6);
  EXPECT_LT(hits(), 100u);
  // Cancelled ones go at once, even if another step's hint came for some of them: these stay.
  Bring(7, hinted);
  Bring(9, Keys(0, 10));
  table_->CancelHints(8);
  flood(6);
  EXPECT_EQ(hits(), 100u);
  Bring(9, Keys(0, 10));
  flood(8);
  flood(8);
  const uint64_t before = table_->Stats().hot_hits;
  Pull(Keys(0, 10));
  EXPECT_EQ(table_->Stats().hot_hits, before + 10);
}

TEST_F(TableTest, HintsHoldAtMostHalfOfTheTier) {
  Make(kSpec, 1 << 16);
  for (uint64_t key = 0; key < 20'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  const uint64_t hot = table_->Stats().hot_rows;
  for (int64_t step = 2; step < 200; ++step) {
    Bring(step, Keys(static_cast<uint64_t>(step) * 100, static_cast<uint64_t>(step) * 100 + 100));
  }
  EXPECT_LE(table_->Stats().hot_rows, hot);
  Push(1, Keys(5000, 9000), 1);  // there is still room for those that were not hinted
  EXPECT_EQ(Pull({5000}), std::vector<float>(4, -2));
}

// A row that changed and left RAM while a hint was reading it must not come back as it was.
TEST_F(TableTest, WhatAHintReadBeforeAnUpdateIsNotTaken) {
  Make(kSpec, 1 << 16);
  for (uint64_t key = 0; key < 20'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  const std::vector<uint64_t> keys = Keys(0, 100);
  std::optional<ColdRead> read = table_->Hint(5, keys);
  ASSERT_TRUE(read.has_value());
  read->Run(*cold_);
  EXPECT_FALSE(read->found.empty());
  Push(2, keys, 1);
  ASSERT_TRUE(table_->SetLimit(0).ok());  // out of RAM again
  ASSERT_TRUE(table_->SetLimit(1 << 16).ok());
  ASSERT_TRUE(table_->FinishRead(*read).ok());
  EXPECT_EQ(Pull(keys), std::vector<float>(400, -2));
}

// What a read under way costs in memory is bounded, however long it takes.
TEST_F(TableTest, NoReadBeginsWhileTooManyRowsHaveLeftSinceTheLast) {
  Make(kSpec, 1 << 16);
  for (uint64_t key = 0; key < 20'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  std::optional<ColdRead> slow = table_->Hint(5, Keys(0, 10));
  ASSERT_TRUE(slow.has_value());
  slow->Run(*cold_);
  for (int round = 0; round < 4; ++round) {
    for (uint64_t key = 0; key < 20'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  }
  for (uint64_t key = 20'000; key < 80'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  EXPECT_FALSE(table_->Hint(6, Keys(100, 110)).has_value());
  ASSERT_TRUE(table_->FinishRead(*slow).ok());
  EXPECT_TRUE(table_->Hint(6, Keys(100, 110)).has_value());
  EXPECT_EQ(Pull(Keys(0, 10)), std::vector<float>(40, -5));
}

TEST_F(TableTest, RowsAreWrittenBeforeTheyMustLeave) {
  Make(kSpec, 1 << 18);
  for (uint64_t key = 0; key < 20'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  for (int round = 0; round < 3; ++round) {
    auto write = table_->CleanAhead();
    ASSERT_TRUE(write.ok());
    ASSERT_TRUE(write->has_value());
    EXPECT_FALSE((*table_->CleanAhead()).has_value());  // one at a time
    EXPECT_TRUE(std::is_sorted((*write)->keys.begin(), (*write)->keys.end()));
    // Updated while being written: the newer value must win.
    Push(2, (*write)->keys, 1);
    const std::vector<uint64_t> others = Keys(100'000 + 1000 * round, 101'000 + 1000 * round);
    Push(2, others, 1);
    (*write)->Run(*cold_);
    ASSERT_TRUE(table_->FinishWrite(**write).ok());
    const std::vector<uint64_t> keys = (*write)->keys;
    const std::vector<float> before = Pull(keys);
    ASSERT_TRUE(table_->SetLimit(0).ok());
    ASSERT_TRUE(table_->SetLimit(1 << 18).ok());
    EXPECT_EQ(Pull(keys), before);
    for (uint64_t key = 0; key < 20'000; key += 1000) Push(3, Keys(key, key + 1000), 1);
  }
}

TEST_F(TableTest, AFailedWriteAheadLosesNothing) {
  Make(kSpec, 1 << 18);
  for (uint64_t key = 0; key < 20'000; key += 1000) Push(1, Keys(key, key + 1000), 1);
  auto write = *table_->CleanAhead();
  ASSERT_TRUE(write.has_value());
  write->status = absl::ResourceExhaustedError("no space");  // and nothing was written
  const std::vector<uint64_t> keys = write->keys;
  ASSERT_TRUE(table_->FinishWrite(*write).ok());
  ASSERT_TRUE(table_->SetLimit(0).ok());
  EXPECT_EQ(Pull(keys), std::vector<float>(keys.size() * 4, -1));
}

TEST_F(TableTest, VisitsAllRowsByKeyWithTheirCounters) {
  Make(kSpec, 0);
  Push(7, Keys(0, 40), -1);
  Push(9, {3}, -1);
  uint64_t next = 0;
  const auto visit = [&](const StoredRow& row) {
    EXPECT_EQ(row.key, next++);
    EXPECT_EQ(row.weights[0], row.key == 3 ? 2 : 1);
    EXPECT_EQ(row.updates, row.key == 3 ? 2u : 1u);
    EXPECT_EQ(row.last_step, row.key == 3 ? 9 : 7);
    EXPECT_TRUE(row.state.empty());
    return absl::OkStatus();
  };
  ASSERT_TRUE(table_->WriteBack().ok());
  EXPECT_EQ(*table_->VisitRows({.rows = 15}, visit), 15u);
  EXPECT_EQ(next, 15u);
  EXPECT_EQ(*table_->VisitRows({.from = 15, .last = 29}, visit), std::nullopt);
  EXPECT_EQ(next, 30u);
  EXPECT_EQ(*table_->VisitRows({.from = 30, .last = 34, .rows = 5}, visit), std::nullopt);
  EXPECT_EQ(*table_->VisitRows({.from = 35, .last = 38, .rows = 4}, visit), std::nullopt);
  EXPECT_EQ(*table_->VisitRows({.from = 39, .last = 44, .rows = 1}, visit), 40u);
  EXPECT_EQ(*table_->VisitRows({.from = 40, .rows = 25}, visit), std::nullopt);
  EXPECT_EQ(*table_->VisitRows({.from = 40, .last = 50}, visit), std::nullopt);
  EXPECT_EQ(next, 40u);
}

TEST_F(TableTest, ForeignBytesInTheColdStoreAreDataLossThatNamesTheKey) {
  Make(kSpec, 0);
  Push(1, Keys(0, 100), 1);
  ASSERT_TRUE(table_->WriteBack().ok());
  ColdStore::Batch batch;
  for (uint64_t key = 0; key < 100; ++key) ASSERT_TRUE(cold_->Put(0, key, "junk", &batch).ok());
  ASSERT_TRUE(cold_->Write(&batch).ok());
  std::vector<float> rows(400);
  const absl::Status status = table_->Pull({Keys(0, 100), Positions(100)}, rows.data(), nullptr);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), testing::HasSubstr("table t, key "));
}

TEST(RamBudget, SplitsByUseAndWastesNothing) {
  const auto divide = [](uint64_t budget, std::vector<TableDemand> demands) {
    return DivideBudget(budget, demands);
  };
  // All fit: the rest is room to grow.
  EXPECT_THAT(divide(1000, {{0, 100, 5}, {0, 300, 0}}), ElementsAre(400, 600));
  // Two that want all of it, one used three times as much.
  EXPECT_THAT(divide(1000, {{0, 5000, 299}, {0, 5000, 99}}), ElementsAre(750, 250));
  // A small one gets what it needs, however little it is used; the others share.
  EXPECT_THAT(divide(1000, {{0, 5000, 99}, {0, 5000, 99}, {0, 100, 99}}),
              ElementsAre(450, 450, 100));
  EXPECT_THAT(divide(0, {{0, 10, 1}, {0, 10, 1}}), ElementsAre(0, 0));
  EXPECT_THAT(divide(10, {}), ElementsAre());
  // The least comes first, and even if it is more than there is.
  EXPECT_THAT(divide(1000, {{200, 5000, 0}, {100, 5000, 699}}), ElementsAre(200, 799));
  EXPECT_THAT(divide(100, {{200, 5000, 0}, {100, 5000, 9}}), ElementsAre(200, 100));
}

TEST(RamBudget, NeverGivesMoreThanThereIs) {
  Random random(3);
  for (int round = 0; round < 1000; ++round) {
    std::vector<TableDemand> demands(1 + random.Below(12));
    for (TableDemand& demand : demands)
      demand = {random.Below(10), random.Below(1000), random.Below(100)};
    const uint64_t budget = 120 + random.Below(5000);
    const std::vector<uint64_t> parts = DivideBudget(budget, demands);
    const uint64_t sum = std::accumulate(parts.begin(), parts.end(), uint64_t{0});
    ASSERT_LE(sum, budget);
    ASSERT_GE(sum + demands.size() * 2, budget);
  }
}

TEST(RamBudget, TablesGiveWayBeforeOthersGrow) {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    const size_t n = 1 + random.Below(6);
    const uint64_t budget = uint64_t{64} << 20;
    std::vector<uint64_t> limits(n), held(n), goals(n);
    const auto split = [&](std::vector<uint64_t>* parts) {
      std::vector<TableDemand> demands(n);
      for (TableDemand& d : demands) d = {0, random.Below(budget), random.Below(1000)};
      *parts = DivideBudget(budget, demands);
    };
    split(&limits);
    for (size_t t = 0; t < n; ++t) held[t] = limits[t] == 0 ? 0 : random.Below(limits[t]);
    split(&goals);
    for (int step = 0; step < 2000 && limits != goals; ++step) {
      const std::vector<uint64_t> next = Approach(limits, held, goals);
      uint64_t sum = 0;
      // At once: what is held may stay, and who may grow does.
      for (size_t t = 0; t < n; ++t) sum += std::max(held[t], next[t]);
      ASSERT_LE(sum, budget + n * (budget / 64));
      limits = next;
      for (size_t t = 0; t < n; ++t) held[t] = std::min(limits[t], std::max(held[t], limits[t]));
    }
    for (size_t t = 0; t < n; ++t) {
      EXPECT_NEAR(static_cast<double>(limits[t]), static_cast<double>(goals[t]),
                  static_cast<double>(budget) / 16);
    }
  }
}

}  // namespace
}  // namespace savior
