#include "ps/local_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/common/temp_folder.h"
#include "tests/ps/busy_shard.h"
#include "tests/ps/store_conformance.h"
#include "tests/ps/whole_rows_conformance.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

// A store that takes its folder with it.
std::shared_ptr<EmbeddingStore> MakeStore(std::vector<TableSpec> tables, uint64_t seed,
                                          uint32_t shards, uint64_t budget) {
  struct Owner {
    const TempFolder folder;
    std::unique_ptr<LocalStore> store;
  };
  const auto owner = std::make_shared<Owner>();
  auto store = LocalStore::Open({.tables = std::move(tables),
                                 .shards = shards,
                                 .ram_budget_bytes = budget,
                                 .folder = owner->folder.path(),
                                 .seed = seed});
  EXPECT_TRUE(store.ok()) << store.status();
  owner->store = *std::move(store);
  return {owner, owner->store.get()};
}

StoreMaker Maker(const std::string& name, uint32_t shards, uint64_t budget) {
  return {name, [=](std::vector<TableSpec> tables, uint64_t seed) {
            return MakeStore(std::move(tables), seed, shards, budget);
          }};
}

const auto kMakers =
    testing::Values(Maker("OneShard", 1, 1 << 30), Maker("ThreeShards", 3, 1 << 30),
                    Maker("FiveShardsNoRam", 5, 0));
std::string NameOf(const testing::TestParamInfo<StoreMaker>& maker) { return maker.param.name; }
INSTANTIATE_TEST_SUITE_P(LocalStore, StoreConformance, kMakers, NameOf);
INSTANTIATE_TEST_SUITE_P(LocalStore, WholeRows, kMakers, NameOf);

class LocalStoreTest : public testing::Test {
 protected:
  LocalStoreOptions Options(uint32_t shards = 2) const {
    return {.tables = {IdTable("t", 4)}, .shards = shards, .folder = folder_ / "live"};
  }
  const TempFolder folder_;
};

TEST_F(LocalStoreTest, BadOptionsAreRefused) {
  LocalStoreOptions options = Options();
  options.tables[0].dim = 3;
  EXPECT_TRUE(absl::IsInvalidArgument(LocalStore::Open(options).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(LocalStore::Open(Options(0)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(LocalStore::Open(Options(5000)).status()));
  options = Options();
  options.folder = "/proc/savior";
  const absl::Status status = LocalStore::Open(options).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("/proc/savior"));
}

TEST_F(LocalStoreTest, TwoStoresNeverShareAFolder) {
  const auto first = LocalStore::Open(Options());
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(LocalStore::Open(Options()).status()));
}

TEST_F(LocalStoreTest, ANewStoreStartsEmptyAndTouchesNoForeignFiles) {
  std::filesystem::create_directories(folder_ / "live/mine");
  {
    const auto store = LocalStore::Open(Options());
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE(PushRows(**store, 0, 0, Keys(0, 10), std::vector<float>(40, 1.0f)).ok());
  }
  const auto store = LocalStore::Open(Options(1));
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->Stats(Soon())->tables.at(0).rows, 0u);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "live/mine"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "live/shard-1"));
}

TEST_F(LocalStoreTest, AStoreOfNoTablesWorks) {
  LocalStoreOptions options = Options();
  options.tables.clear();
  const auto store = LocalStore::Open(options);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE((*store)->Stats(Soon())->tables.empty());
}

TEST_F(LocalStoreTest, AStoppedStoreIsUnavailable) {
  const auto store = *LocalStore::Open(Options());
  store->Stop();
  std::vector<float> rows(400);
  const std::vector<uint64_t> keys = Keys(0, 100);
  const TablePull pull{.table = 0, .keys = keys, .rows = rows};
  EXPECT_TRUE(absl::IsUnavailable(store->Pull({&pull, 1}, Soon())));
  EXPECT_TRUE(absl::IsUnavailable(PushRows(*store, 0, 0, keys, rows)));
  EXPECT_TRUE(absl::IsUnavailable(HintRows(*store, 0, keys)));
  EXPECT_TRUE(absl::IsUnavailable(store->Stats(Soon()).status()));
  EXPECT_TRUE(absl::IsUnavailable(store->Checkpoint(folder_ / "c", Soon())));
}

TEST_F(LocalStoreTest, ATimedOutCallNeverTouchesItsSpansAgain) {
  const auto store = *LocalStore::Open(Options(1));
  ASSERT_TRUE(PushRows(*store, 0, 0, Keys(0, 1), std::vector<float>(4, 1.0f)).ok());
  {
    const BusyShard busy(store.get());
    auto keys = std::make_unique<std::vector<uint64_t>>(Keys(0, 100));
    auto rows = std::make_unique<std::vector<float>>(400, 1.0f);
    const TablePull pull{.table = 0, .keys = *keys, .rows = *rows};
    const TablePush push{.table = 0, .keys = *keys, .grads = *rows};
    const auto soon = [] { return DeadlineIn(std::chrono::milliseconds(20)); };
    EXPECT_TRUE(absl::IsDeadlineExceeded(store->Pull({&pull, 1}, soon())));
    EXPECT_TRUE(absl::IsDeadlineExceeded(store->Push(1, {&push, 1}, soon())));
    EXPECT_TRUE(absl::IsDeadlineExceeded(store->Stats(soon()).status()));
    keys.reset();  // a late shard would use freed memory: asan and tsan would tell
    rows.reset();
  }
  const auto stats = store->Stats(Soon());
  EXPECT_EQ(stats->tables.at(0).rows, 1u);  // the push was taken back
  EXPECT_EQ(stats->tables.at(0).pulled, 0u);
}

TEST_F(LocalStoreTest, RamStaysWithinTheBudgetAndGoesWhereTheUseIs) {
  LocalStoreOptions options = Options(2);
  options.tables = {IdTable("busy", 16), IdTable("idle", 16)};
  options.ram_budget_bytes = 4 << 20;  // of about 2 * 11 MB
  const auto store = *LocalStore::Open(options);
  const std::vector<uint64_t> keys = Keys(0, 1000);
  const std::vector<float> grads(16'000, 1.0f);
  for (uint64_t begin = 0; begin < 60'000; begin += 1000) {
    const std::vector<uint64_t> some = Keys(begin, begin + 1000);
    for (uint32_t t = 0; t < 2; ++t) ASSERT_TRUE(PushRows(*store, 0, t, some, grads).ok());
  }
  for (uint64_t round = 0; round < 300; ++round) {
    PullRows(*store, 0, Keys(round % 60 * 1000, round % 60 * 1000 + 1000));
  }
  const auto stats = store->Stats(Soon());
  EXPECT_LE(stats->tables.at(0).hot_bytes + stats->tables.at(1).hot_bytes,
            options.ram_budget_bytes);
  EXPECT_GT(stats->tables.at(0).hot_bytes, options.ram_budget_bytes / 2);
  EXPECT_LT(stats->tables.at(1).hot_bytes, options.ram_budget_bytes / 4);
  EXPECT_EQ(stats->tables.at(0).rows, 60'000u);
  EXPECT_EQ(stats->tables.at(1).rows, 60'000u);
}

}  // namespace
}  // namespace savior
