// A full disk under a store: a small tmpfs, filled and freed at will. Needs root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/routing.h"
#include "ps/cold_store.h"
#include "ps/local_store.h"
#include "tests/common/small_disk.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"
#include "tests/ps/naive_store.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kRecovery{20};

// Until OK, for at most kRecovery.
template <typename Try>
absl::Status Recover(Try attempt) {
  const Deadline deadline = DeadlineIn(kRecovery);
  absl::Status status = attempt();
  while (!status.ok() && SteadyClock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(100));
    status = attempt();
  }
  return status;
}

TEST(ColdStoreOnAFullDisk, WritesAreRefusedReadsGoOnAndAllRecovers) {
  SmallDisk disk(96);
  SAVIOR_NEEDS(disk);
  auto store = *ColdStore::Open(disk / "db", {"t"});
  const std::string value(1024, 'v');
  std::vector<uint64_t> acknowledged;
  std::vector<uint64_t> refused;
  const auto write = [&](uint64_t begin) {
    ColdStore::Batch batch;
    for (uint64_t key = begin; key < begin + 100; ++key) {
      EXPECT_TRUE(store->Put(0, key, value, &batch).ok());
    }
    absl::Status status = store->Write(&batch);
    (status.ok() ? acknowledged : refused).push_back(begin);
    return status;
  };
  const auto found = [&](uint64_t begin) {
    size_t n = 0;
    const absl::Status status =
        store->Get(0, Keys(begin, begin + 100), [&](size_t, std::string_view stored) {
          n += stored == value;
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok()) << status;
    return n;
  };
  for (uint64_t key = 0; key < 20'000; key += 100) ASSERT_TRUE(write(key).ok());
  disk.Fill();
  absl::Status status;
  uint64_t key = 20'000;
  // What fits the memory of RocksDB is taken.
  for (; status.ok() && key < 1'000'000; key += 100) status = write(key);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  std::cout << "refused at row " << key << ": " << status << std::endl;
  for (int i = 0; i < 15; ++i, key += 100) {
    status = write(key);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    status = store->PutNote("note", value);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(found(acknowledged[static_cast<size_t>(i) * 7]), 100u);
    std::this_thread::sleep_for(milliseconds(100));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(store->Checkpoint(disk / "point")));
  for (const uint64_t begin : refused) EXPECT_EQ(found(begin), 0u);
  disk.Free();
  const auto freed = SteadyClock::now();
  status = Recover([&] { return write(key += 100); });
  EXPECT_TRUE(status.ok()) << status;
  std::cout << "recovered after "
            << std::chrono::duration<double>(SteadyClock::now() - freed).count() << " s"
            << std::endl;
  for (const uint64_t begin : acknowledged) EXPECT_EQ(found(begin), 100u);
  for (const uint64_t begin : refused) EXPECT_EQ(found(begin), 0u);
}

// Rows that are written again and again: here a merge of table files meets the end of the disk
// first, while there is still room for small ones.
// Of many rows at once, which make a table file: this RocksDB takes in none once it was stopped.
TEST(ColdStoreOnAFullDisk, SortedRowsAreWrittenAfterIt) {
  SmallDisk disk(96);
  SAVIOR_NEEDS(disk);
  auto store = *ColdStore::Open(disk / "db", {"t"});
  const std::string value(1024, 'v');
  const auto write = [&](uint64_t begin) {
    return store->WriteSorted(0, Keys(begin, begin + 5000),
                              [&](size_t) { return std::string_view(value); });
  };
  ASSERT_TRUE(write(0).ok());
  disk.Fill();
  absl::Status status;
  for (uint64_t key = 10'000; status.ok() && key < 1'000'000; key += 100) {
    ColdStore::Batch batch;
    for (uint64_t k = key; k < key + 100; ++k) ASSERT_TRUE(store->Put(0, k, value, &batch).ok());
    status = store->Write(&batch);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  status = write(5000);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  disk.Free();
  status = Recover([&] { return write(5000); });
  EXPECT_TRUE(status.ok()) << status;
  status = write(0);
  EXPECT_TRUE(status.ok()) << status;
  size_t found = 0;
  ASSERT_TRUE(store
                  ->Get(0, Keys(0, 10'000),
                        [&](size_t, std::string_view stored) {
                          found += stored == value;
                          return absl::OkStatus();
                        })
                  .ok());
  EXPECT_EQ(found, 10'000u);
}

TEST(ColdStoreOnAFullDisk, MergesThatFindNoRoomRefuseWritesAndRecover) {
  SmallDisk disk(320);
  SAVIOR_NEEDS(disk);
  auto store = *ColdStore::Open(disk / "db", {"t"});
  constexpr uint64_t kRows = 60'000;
  std::vector<uint32_t> versions(kRows);
  const auto value = [](uint32_t version) { return std::string(1000, static_cast<char>(version)); };
  Random random(1);
  const auto write = [&] {
    ColdStore::Batch batch;
    std::vector<uint64_t> keys;
    for (int i = 0; i < 100; ++i) keys.push_back(random.Below(kRows));
    for (const uint64_t key : keys) {
      EXPECT_TRUE(store->Put(0, key, value(versions[key] + 1), &batch).ok());
    }
    absl::Status status = store->Write(&batch);
    if (!status.ok()) return status;
    std::ranges::sort(keys);
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    for (const uint64_t key : keys) ++versions[key];
    return status;
  };
  const auto compare = [&] {
    uint64_t right = 0;
    const std::vector<uint64_t> keys = Keys(0, kRows);
    const absl::Status status = store->Get(0, keys, [&](size_t i, std::string_view stored) {
      right += stored == value(versions[i]);
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(right, std::ranges::count_if(versions, [](uint32_t v) { return v > 0; }));
  };
  absl::Status status;
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(write().ok());
  std::this_thread::sleep_for(seconds(1));  // all merged
  // Some new files fit, but not what they are merged to.
  disk.Fill(uintmax_t{70} << 20);
  int refused = 0;
  for (int i = 0; i < 30'000 && refused < 20; ++i) {
    status = write();
    if (status.ok()) continue;
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << "batch " << i << ": " << status;
    if (refused++ == 0) std::cout << "refused batch " << i << ": " << status << std::endl;
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_EQ(refused, 20);
  compare();
  disk.Free();
  status = Recover(write);
  EXPECT_TRUE(status.ok()) << status;
  for (int i = 0; i < 300; ++i) {
    status = Recover(write);
    ASSERT_TRUE(status.ok()) << status;
  }
  compare();
}

// Enough space for RocksDB to try, too little for what it holds in memory.
TEST(ColdStoreOnAFullDisk, ARecoveryThatFailsIsTriedAgain) {
  SmallDisk disk(128);
  SAVIOR_NEEDS(disk);
  auto store = *ColdStore::Open(disk / "db", {"t"});
  const std::string value(1000, 'v');
  uint64_t key = 0;
  const auto write = [&] {
    ColdStore::Batch batch;
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(store->Put(0, key + i, value, &batch).ok());
    absl::Status status = store->Write(&batch);
    if (status.ok()) key += 100;
    return status;
  };
  ASSERT_TRUE(write().ok());
  disk.Fill();
  while (write().ok()) {
  }
  disk.Free(uintmax_t{17} << 20);
  for (int i = 0; i < 25; ++i) {
    const absl::Status status = write();
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    std::this_thread::sleep_for(milliseconds(100));
  }
  disk.Free();
  const absl::Status status = Recover(write);
  EXPECT_TRUE(status.ok()) << status;
  uint64_t found = 0;
  EXPECT_TRUE(store
                  ->Get(0, Keys(0, key),
                        [&](size_t, std::string_view stored) {
                          found += stored == value;
                          return absl::OkStatus();
                        })
                  .ok());
  EXPECT_EQ(found, key);
}

// A store on a small disk beside the model of what it acknowledged.
class FullStore {
 public:
  static constexpr uint32_t kDim = 64;
  static constexpr uint64_t kBatch = 2000;

  FullStore(const fs::path& folder, uint32_t shards)
      : tables_({IdTable("a", kDim, Optimizer(OptimizerKind::kSgd)),
                 IdTable("b", kDim, Optimizer(OptimizerKind::kSgd))}),
        shards_(shards),
        map_(EvenBucketMap(shards)),
        naive_(tables_, 1),
        store_(*LocalStore::Open({.tables = tables_,
                                  .shards = shards,
                                  .ram_budget_bytes = uint64_t{4} << 20,
                                  .folder = folder,
                                  .seed = 1})) {}

  LocalStore& store() { return *store_; }

  // A push of kBatch keys. If it is refused every shard has applied all of its part, or nothing.
  absl::Status Push(std::chrono::milliseconds patience) {
    ++step_;
    const uint32_t table = step_ % 2;
    std::vector<uint64_t> keys;
    // New ones, and some that were there before.
    for (uint64_t i = 0; i < kBatch / 2; ++i) keys.push_back(next_++);
    while (keys.size() < kBatch) keys.push_back(random_.Below(next_));
    std::ranges::sort(keys);
    keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
    const std::vector<float> grads = RandomFloats(keys.size() * kDim, &random_);
    const TablePush push{.table = table, .keys = keys, .grads = grads};
    absl::Status status = store_->Push(step_, {&push, 1}, DeadlineIn(patience));
    std::vector<bool> applied(shards_, status.ok());
    if (!status.ok()) {
      const Pulled pulled = PullRows(*store_, table, keys);
      for (uint32_t s = 0; s < shards_; ++s) {
        std::vector<bool> seen;
        for (size_t i = 0; i < keys.size(); ++i) {
          if (map_[BucketOf(table, keys[i])] != s) continue;
          const uint32_t before = naive_.Read(table, keys[i]).head.updates;
          EXPECT_TRUE(pulled.updates[i] == before || pulled.updates[i] == before + 1);
          seen.push_back(pulled.updates[i] != before);
        }
        applied[s] = !seen.empty() && seen[0];
        EXPECT_EQ(std::ranges::count(seen, applied[s]), static_cast<int64_t>(seen.size()))
            << "shard " << s << " has applied a part";
      }
    }
    for (size_t i = 0; i < keys.size(); ++i) {
      if (!applied[map_[BucketOf(table, keys[i])]]) continue;
      naive_.Push(step_, table, keys[i], grads.data() + i * kDim);
    }
    return status;
  }

  void PullSome(size_t n) {
    for (uint32_t table = 0; table < 2; ++table) {
      std::vector<uint64_t> keys;
      for (size_t i = 0; i < n; ++i) keys.push_back(random_.Below(next_ + 10));
      std::ranges::sort(keys);
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      const Pulled pulled = PullRows(*store_, table, keys);
      size_t wrong = 0;
      for (size_t i = 0; i < keys.size(); ++i) {
        const NaiveStore::Row row = naive_.Read(table, keys[i]);
        wrong += pulled.updates[i] != row.head.updates ||
                 !std::equal(row.weights.begin(), row.weights.end(),
                             pulled.rows.begin() + static_cast<int64_t>(i * kDim));
      }
      EXPECT_EQ(wrong, 0u);
      const TableKeys hint{.table = table, .keys = keys};
      EXPECT_TRUE(store_->Hint(step_ + 1, {&hint, 1}).ok());
    }
  }

  void CompareAll() {
    for (uint32_t t = 0; t < 2; ++t) {
      size_t rows = 0;
      size_t wrong = 0;
      const absl::Status status = store_->ForEachRow(
          t,
          [&](const StoredRow& row) {
            ++rows;
            wrong += !(NaiveStore::Row::Of(row) == naive_.Read(t, row.key));
            return absl::OkStatus();
          },
          Soon());
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ(rows, naive_.Count(t));
      EXPECT_EQ(wrong, 0u);
      EXPECT_EQ(store_->Stats(Soon())->tables.at(t).rows, rows);
    }
  }

 private:
  const std::vector<TableSpec> tables_;
  const uint32_t shards_;
  const std::vector<uint32_t> map_;
  NaiveStore naive_;
  const std::unique_ptr<LocalStore> store_;
  Random random_{7};
  uint64_t next_ = 0;
  int64_t step_ = 0;
};

class StoreOnAFullDisk : public testing::TestWithParam<uint32_t> {};

TEST_P(StoreOnAFullDisk, ReadsGoOnPushesWaitAndRecoverNothingIsLost) {
  SmallDisk disk(256);
  SAVIOR_NEEDS(disk);
  FullStore store(disk / "live", GetParam());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(store.Push(seconds(60)).ok());
  const absl::Status point = store.store().Checkpoint(disk / "point", Soon());
  ASSERT_TRUE(point.ok()) << point;
  disk.Fill();
  absl::Status status;
  for (int i = 0; i < 2000 && status.ok(); ++i) {
    status = store.Push(seconds(1));
    if (i % 10 == 0) store.PullSome(200);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  std::cout << status << std::endl;
  // It stays so, and the shards serve on; each table grows by at most one push beyond its limit.
  uint64_t bytes = 0;
  for (int i = 0; i < 6; ++i) {
    const SteadyClock::time_point begin = SteadyClock::now();
    status = store.Push(seconds(1));
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    if (!status.ok()) {
      EXPECT_GE(SteadyClock::now() - begin, milliseconds(900)) << "a push waits for room";
    }
    store.PullSome(500);
    const auto stats = store.store().Stats(Soon())->tables;
    bytes = stats[0].hot_bytes + stats[1].hot_bytes;
  }
  EXPECT_LE(bytes, uint64_t{24} << 20);
  status = store.store().Checkpoint(disk / "full", Soon());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_FALSE(fs::exists(disk / "full/shard-0"));
  store.PullSome(2000);

  disk.Free();
  const SteadyClock::time_point freed = SteadyClock::now();
  status = Recover([&] { return store.Push(milliseconds(500)); });
  EXPECT_TRUE(status.ok()) << status;
  std::cout << "recovered after "
            << std::chrono::duration<double>(SteadyClock::now() - freed).count() << " s"
            << std::endl;
  for (int i = 0; i < 10; ++i) {
    status = store.Push(seconds(30));
    EXPECT_TRUE(status.ok()) << status;
  }
  store.PullSome(2000);
  store.CompareAll();
  fs::remove_all(disk / "full");
  status = store.store().Checkpoint(disk / "full", Soon());
  EXPECT_TRUE(status.ok()) << status;
  PrintFigure("enospc_live",
              "pushes refused and waiting, reads going on, nothing acknowledged "
              "lost; all rows compared after it");
}

INSTANTIATE_TEST_SUITE_P(Shards, StoreOnAFullDisk, testing::Values(1, 2));

}  // namespace
}  // namespace savior
