#include "ps/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <numeric>
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
    table_ = std::make_unique<Table>(spec, 0, 1, 0, cold_.get(), limit_bytes);
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

  const TempFolder folder_;
  std::unique_ptr<ColdStore> cold_;
  std::unique_ptr<Table> table_;
};

const TableSpec kSpec = AlignTable("t", 4, Optimizer(OptimizerKind::kSgd, 1));

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

TEST_F(TableTest, BringUpMakesPullsHit) {
  Make(kSpec, 1 << 20);
  Push(1, Keys(0, 1000), 1);
  ASSERT_TRUE(table_->SetLimit(0).ok());
  ASSERT_TRUE(table_->SetLimit(1 << 20).ok());
  EXPECT_EQ(table_->Stats().hot_rows, 16u);
  std::vector<uint64_t> keys = Keys(500, 1500);
  keys.insert(keys.end(), 300, 501);  // hints may repeat keys
  ASSERT_TRUE(table_->BringUp(keys).ok());
  const uint64_t hits = table_->Stats().hot_hits;
  Pull(Keys(500, 1000));
  EXPECT_EQ(table_->Stats().hot_hits, hits + 500);
}

TEST_F(TableTest, VisitsAllRowsByKeyWithTheirCounters) {
  Make(kSpec, 0);
  Push(7, Keys(0, 40), -1);
  Push(9, {3}, -1);
  uint64_t next = 0;
  const absl::Status status = table_->ForEachRow([&](const StoredRow& row) {
    EXPECT_EQ(row.key, next++);
    EXPECT_EQ(row.weights[0], row.key == 3 ? 2 : 1);
    EXPECT_EQ(row.updates, row.key == 3 ? 2u : 1u);
    EXPECT_EQ(row.last_step, row.key == 3 ? 9 : 7);
    EXPECT_TRUE(row.state.empty());
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
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

}  // namespace
}  // namespace savior
