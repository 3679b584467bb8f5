#include "ps/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "common/partition.h"
#include "common/routing.h"
#include "ps/restore.h"
#include "ps/shard_note.h"
#include "ps/shard_thread.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

std::unique_ptr<Shard> OpenShard(const std::filesystem::path& folder) {
  auto shard = Shard::Open({.tables = {IdTable("t", 4)}, .ram_budget_bytes = 0, .folder = folder});
  EXPECT_TRUE(shard.ok()) << shard.status();
  return *std::move(shard);
}

TEST(Shard, AVisitorsErrorIsNotTheShards) {
  const TempFolder folder;
  const auto shard = OpenShard(folder / "db");
  const std::vector<uint64_t> keys = Keys(0, 8);
  const std::vector<uint32_t> positions = {0, 1, 2, 3, 4, 5, 6, 7};
  std::vector<float> rows(32, 1.0f);
  const WritePart push{.table = 0, .selection = {keys, positions}, .values = rows.data()};
  ASSERT_TRUE(shard->Push(1, {&push, 1}).ok());
  const std::vector<RowRange> ranges = {{.last = 3}, {.from = 4, .rows = 100}};
  const auto visited = shard->VisitRows(
      0, ranges, [](size_t, const StoredRow&) { return absl::DataLossError("mine"); });
  EXPECT_TRUE(absl::IsDataLoss(visited.status()));
  EXPECT_TRUE(shard->Pull(0, {keys, positions}, rows.data(), nullptr).ok());
}

// The whole way of a hint: through the second thread, without a caller who waits.
TEST(ShardThread, HintedRowsComeUpWhileNobodyAsks) {
  const TempFolder folder;
  auto shard = Shard::Open(
      {.tables = {IdTable("t", 4)}, .ram_budget_bytes = 1 << 16, .folder = folder / "db"});
  ASSERT_TRUE(shard.ok()) << shard.status();
  ShardThread thread(*std::move(shard));
  const auto on_thread = [&](const std::function<void(Shard&)>& work) {
    std::promise<void> done;
    thread.Post([&](Shard& s) {
      work(s);
      done.set_value();
    });
    done.get_future().wait();
  };
  const std::vector<float> ones(4000, 1.0f);
  on_thread([&](Shard& s) {
    for (uint64_t begin = 0; begin < 20'000; begin += 1000) {
      const std::vector<uint64_t> keys = Keys(begin, begin + 1000);
      const WritePart push{.table = 0, .selection = {keys, {}}, .values = ones.data()};
      ASSERT_TRUE(s.Push(1, {&push, 1}).ok());
    }
  });
  const auto hinted = [&] {
    TableStats stats;
    on_thread([&](Shard& s) { s.AddStats({&stats, 1}); });
    return stats.hinted;
  };
  ASSERT_TRUE(thread.PostHint(2, 0, Keys(0, 200)));
  for (int i = 0; i < 2000 && hinted() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_GT(hinted(), 0u);
}

TEST(ShardNote, ReadsBack) {
  const std::vector<uint64_t> rows = {1, 2, 3, 4, 5, 6, 7, UINT64_MAX};
  const ShardNote note = ShardNote::Of(2, 5, UINT64_MAX, AllTables(), rows);
  const absl::StatusOr<ShardNote> read = ShardNote::Decode(note.Encode());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, note);
  EXPECT_TRUE(read->Fits(AllTables(), UINT64_MAX).ok());
}

TEST(ShardNote, MalformedOnesAreDataLoss) {
  const std::string text =
      ShardNote::Of(0, 1, 1, std::vector{IdTable("t", 4)}, std::vector<uint64_t>{3}).Encode();
  for (size_t n = 0; n < text.size(); ++n) {
    EXPECT_TRUE(absl::IsDataLoss(ShardNote::Decode(text.substr(0, n)).status())) << n;
  }
  for (const char* bad :
       {"[]", "{}", R"({"version":2,"shard":0,"shards":1,"seed":0,"tables":[]})",
        R"({"version":1,"shard":1,"shards":1,"seed":0,"tables":[]})",
        R"({"version":1,"shard":0,"shards":1,"seed":0,"tables":[{"name":"t"}]})"}) {
    EXPECT_TRUE(absl::IsDataLoss(ShardNote::Decode(bad).status())) << bad;
  }
}

TEST(ShardThread, RunsWorkInOrderAndFinishesItAtStop) {
  const TempFolder folder;
  ShardThread thread(OpenShard(folder / "db"));
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(thread.Post([&order, i](Shard&) { order.push_back(i); }));
  }
  thread.Stop();
  ASSERT_EQ(order.size(), 1000u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_FALSE(thread.Post([](Shard&) { FAIL(); }));
  EXPECT_FALSE(thread.PostHint(0, 0, {1}));
}

TEST(ShardThread, DropsHintsBeyondItsBound) {
  const TempFolder folder;
  ShardThread thread(OpenShard(folder / "db"));
  std::atomic<bool> go{false};
  thread.Post([&](Shard&) {
    while (!go) std::this_thread::yield();
  });
  // The shard is busy: hints wait, and no more than the bound. Taking them all would need 400 MB.
  for (int i = 0; i < 1000; ++i) {
    EXPECT_TRUE(thread.PostHint(0, 0, std::vector<uint64_t>(50'000, 7)));
  }
  go = true;
  thread.Stop();
}

TEST(Partition, GivesEveryKeyToItsShardOnceInOrder) {
  const std::vector<uint64_t> first = Keys(0, 1000);
  const std::vector<uint64_t> second = {5, UINT64_MAX};
  const std::vector<TableKeys> requests = {{0, first}, {3, {}}, {2, second}};
  for (const uint32_t shards : {1u, 2u, 7u}) {
    const std::vector<uint32_t> map = EvenBucketMap(shards);
    const Partition partition(requests, map, shards);
    std::vector<std::vector<int>> seen = {std::vector<int>(1000), {}, std::vector<int>(2)};
    for (uint32_t s = 0; s < shards; ++s) {
      for (const Piece& piece : partition.Of(s)) {
        EXPECT_EQ(piece.table, requests[piece.request].table);
        const auto& [keys, positions] = piece.selection;
        ASSERT_EQ(keys.size(), positions.size());
        EXPECT_TRUE(std::is_sorted(positions.begin(), positions.end()));
        for (size_t i = 0; i < keys.size(); ++i) {
          EXPECT_EQ(keys[i], requests[piece.request].keys[positions[i]]);
          EXPECT_EQ(map[BucketOf(piece.table, keys[i])], s);
          ++seen[piece.request][positions[i]];
        }
      }
    }
    for (const std::vector<int>& counts : seen) {
      for (const int n : counts) EXPECT_EQ(n, 1);
    }
  }
}

}  // namespace
}  // namespace savior
