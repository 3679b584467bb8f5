// A walk over all rows: the same rows in the same order, whatever the keys are and however many
// threads read; and it ends when one of them fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "ps/local_store.h"
#include "ps/row_slice.h"
#include "ps/shard.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/corruption.h"
#include "tests/ps/naive_store.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kDim = 4;

struct Seen {
  uint64_t key = 0;
  NaiveStore::Row row;
  bool operator==(const Seen&) const = default;
};

// Key sets by what is peculiar about them.
std::map<std::string, std::set<uint64_t>> Worlds() {
  std::map<std::string, std::set<uint64_t>> worlds;
  worlds["none"] = {};
  worlds["one"] = {77};
  worlds["least and greatest"] = {0, UINT64_MAX};
  for (uint64_t i = 0; i < 3000; ++i) {
    worlds["dense"].insert(i);
    worlds["hashed"].insert(Mix(i));
    worlds["at the end"].insert(UINT64_MAX - i);
    worlds["strided"].insert(i * 1'000'003);
    // All but the first lie in one of any ranges that are guessed from it.
    worlds["one range"].insert(i == 0 ? 0 : (uint64_t{1} << 62) + i);
    // Ever denser, then sparse again.
    worlds["uneven"].insert(i < 1500 ? i * i * i : (uint64_t{1} << 40) + i * 7 - i % 3);
    // Groups of 200 ids that follow each other, far apart.
    worlds["clusters"].insert((i / 200 << 50) + i % 200);
  }
  return worlds;
}

class RowWalkTest : public testing::Test {
 protected:
  static std::unique_ptr<LocalStore> Open(const std::filesystem::path& folder, uint32_t shards,
                                          const EvictionSpec& eviction = {}) {
    TableSpec spec = IdTable("t", kDim, Optimizer(OptimizerKind::kAdagrad));
    spec.eviction = eviction;
    return *LocalStore::Open({.tables = {spec},
                              .shards = shards,
                              .ram_budget_bytes = 1 << 16,
                              .folder = folder,
                              .steps_per_minute = 1});
  }
  // Pushes to all of `keys`; those of even steps are other rows than those of odd ones.
  static void Push(LocalStore& store, const std::set<uint64_t>& keys, int64_t step = 1) {
    const std::vector<uint64_t> all(keys.begin(), keys.end());
    Random random(7, static_cast<uint64_t>(step));
    for (size_t begin = 0; begin < all.size(); begin += 500) {
      const std::span<const uint64_t> some =
          std::span(all).subspan(begin, std::min<size_t>(500, all.size() - begin));
      ASSERT_TRUE(PushRows(store, step, 0, some, RandomFloats(some.size() * kDim, &random)).ok());
    }
  }
  // By way of a cursor whose threads take `rows` at a time.
  static std::vector<Seen> Walk(LocalStore& store, uint64_t rows, size_t threads) {
    std::vector<Seen> seen;
    RowCursor cursor(
        store.host().shards(), [&](uint32_t s, const RowSlice::Start& start, RowSlice* slice) {
          std::promise<absl::Status> filled;
          store.host().thread(s).Post([&](Shard& shard) {
            filled.set_value(slice->Fill(&shard, {.rows = rows, .threads = threads}, start));
          });
          return filled.get_future().get();
        });
    while (true) {
      const absl::StatusOr<bool> more = cursor.Next();
      EXPECT_TRUE(more.ok()) << more.status();
      if (!more.ok() || !*more) return seen;
      seen.push_back({cursor.row().key, NaiveStore::Row::Of(cursor.row())});
    }
  }

  const TempFolder folder_;
};

TEST_F(RowWalkTest, IsTheSameForAnyNumberOfThreads) {
  for (const auto& [name, keys] : Worlds()) {
    for (const uint32_t shards : {1, 3}) {
      SCOPED_TRACE(name + ", shards: " + std::to_string(shards));
      const auto store = Open(folder_ / (name + std::to_string(shards)), shards);
      Push(*store, keys);
      const std::vector<Seen> alone = Walk(*store, 64, 1);
      ASSERT_EQ(alone.size(), keys.size());
      EXPECT_TRUE(std::ranges::equal(alone, keys, {}, &Seen::key));
      for (const uint64_t rows : {1, 32, 4096}) {
        for (const size_t threads : {2, 3, 16}) {
          if (rows == 1 && threads > 2) continue;  // long, and says nothing new
          EXPECT_TRUE(Walk(*store, rows, threads) == alone) << rows << " rows, " << threads;
        }
      }
    }
  }
}

TEST_F(RowWalkTest, ForgottenRowsAreNotSeenByAnyThread) {
  const auto store = Open(folder_ / "live", 1, {.idle_steps = 10, .max_share_per_minute = 1});
  const std::set<uint64_t> all = Worlds().at("hashed");
  Push(*store, all);
  std::set<uint64_t> kept;
  std::ranges::copy_if(all, std::inserter(kept, kept.end()), [](uint64_t k) { return k % 5 == 0; });
  for (int64_t step = 2; step < 100; step += 3) Push(*store, kept, step);
  const std::vector<Seen> alone = Walk(*store, 64, 1);
  EXPECT_TRUE(std::ranges::equal(alone, kept, {}, &Seen::key));
  EXPECT_TRUE(Walk(*store, 32, 4) == alone);
}

// Readers that have filled what they hold wait for nobody: the walk may end anywhere.
TEST_F(RowWalkTest, EndsWhereItsVisitorFails) {
  const auto store = Open(folder_ / "live", 2);
  Push(*store, Worlds().at("hashed"));
  for (const uint64_t last : {1, 100, 2999}) {
    uint64_t seen = 0;
    const absl::Status status = store->ForEachRow(
        0,
        [&](const StoredRow&) {
          return ++seen == last ? absl::ResourceExhaustedError("mine") : absl::OkStatus();
        },
        Soon(), 7);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(seen, last);
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(store->ForEachRow(
      0, [](const StoredRow&) { return absl::OkStatus(); }, Past(), 7)));
}

// A damaged file below one of the readers: the others end, and the file is named.
TEST_F(RowWalkTest, EndsWhereAReaderMeetsDamage) {
  for (const size_t threads : {1, 2, 5}) {
    const std::string name = "live-" + std::to_string(threads);
    const auto store = Open(folder_ / name, 1);
    std::set<uint64_t> keys;
    for (uint64_t i = 0; i < 60'000; ++i) keys.insert(Mix(i));
    Push(*store, keys);
    ASSERT_TRUE(store->Checkpoint(folder_ / ("point-" + name), Soon()).ok());
    const std::filesystem::path hurt = FlipBytes(folder_ / name / "shard-0");
    uint64_t seen = 0;
    const absl::Status status = store->ForEachRow(
        0,
        [&](const StoredRow&) {
          ++seen;
          return absl::OkStatus();
        },
        Soon(), threads);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(hurt.filename().string()));
    EXPECT_THAT(status.message(), HasSubstr("table t"));
    EXPECT_LT(seen, keys.size());
  }
}

}  // namespace
}  // namespace savior
