// Checkpoints that do not stop training, as every store with shards makes them: in this process and
// over the network.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Kind {
  std::string name;
  uint32_t shards = 1;
  bool remote = false;
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name; }

class CheckpointConformance : public testing::TestWithParam<Kind> {
 protected:
  CheckpointConformance()
      : served_({.tables = AllTables(), .seed = kSeed, .shards = GetParam().shards}),
        remote_(served_.Connect()) {}

  EmbeddingStore& store() {
    return GetParam().remote ? static_cast<EmbeddingStore&>(*remote_) : served_.local();
  }
  absl::Status Freeze(int64_t step) {
    return GetParam().remote
               ? remote_->Freeze(step, Soon())
               : served_.local().Freeze(step, {.folder = served_.Checkpoint(step)}, Soon());
  }
  absl::Status Await(int64_t step) {
    return GetParam().remote ? AwaitCheckpoint(*remote_, step)
                             : served_.local().AwaitCheckpoint(step, Soon());
  }
  void Push(int64_t step, uint64_t begin, uint64_t end) {
    const std::vector<uint64_t> keys = Keys(begin, end);
    for (uint32_t t = 0; t < AllTables().size(); ++t) {
      const TableSpec spec = AllTables()[t];
      const std::vector<float> values(keys.size() * spec.dim, 0.5f + static_cast<float>(step));
      const absl::Status status = spec.kind == TableKind::kFrozen
                                      ? PutRows(store(), t, keys, values)
                                      : PushRows(store(), step, t, keys, values);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  static std::vector<Pulled> RowsIn(EmbeddingStore& store) {
    std::vector<Pulled> rows;
    for (uint32_t t = 0; t < store.tables().size(); ++t) {
      rows.push_back(PullRows(store, t, Keys(0, kKeys)));
    }
    return rows;
  }
  std::vector<Pulled> RowsOf(int64_t step) {
    const TempFolder folder;
    auto restored = LocalStore::Open({.tables = AllTables(),
                                      .shards = GetParam().shards,
                                      .folder = folder / "live",
                                      .seed = kSeed,
                                      .restore_from = served_.Checkpoint(step)});
    EXPECT_TRUE(restored.ok()) << restored.status();
    return restored.ok() ? RowsIn(**restored) : std::vector<Pulled>();
  }

  static constexpr uint64_t kSeed = 23;
  static constexpr uint64_t kKeys = 6000;
  ServedStore served_;
  std::unique_ptr<RemoteStore> remote_;
};

TEST_P(CheckpointConformance, HoldsTheRowsOfTheFreezeWhilePushesGoOn) {
  for (int64_t step = 1; step <= 3; ++step) {
    Push(step, 0, kKeys);
    const std::vector<Pulled> cut = RowsIn(store());
    ASSERT_TRUE(Freeze(step).ok());
    for (uint64_t key = 0; key < kKeys; key += 700) Push(step, key, key + 300);
    const std::vector<Pulled> now = RowsIn(store());
    const absl::Status written = Await(step);
    ASSERT_TRUE(written.ok()) << written;
    EXPECT_EQ(RowsOf(step), cut);
    EXPECT_EQ(RowsIn(store()), now);
    EXPECT_NE(now, cut);
  }
}

// Also while it is asked about from another thread, as a run's lead does.
TEST_P(CheckpointConformance, IsAwaitedBesideCallsOfOthers) {
  Push(1, 0, kKeys);
  const std::vector<Pulled> cut = RowsIn(store());
  ASSERT_TRUE(Freeze(1).ok());
  absl::Status written;
  std::thread waiting([&] { written = Await(1); });
  for (int64_t step = 2; step < 12; ++step) Push(step, 0, 2000);
  waiting.join();
  ASSERT_TRUE(written.ok()) << written;
  EXPECT_EQ(RowsOf(1), cut);
}

TEST_P(CheckpointConformance, OneThatFailsSaysSoAndTheNextIsWhole) {
  Push(1, 0, kKeys);
  fs::create_directories(served_.Checkpoint(1) / ShardFolder(GetParam().shards - 1) / "taken");
  ASSERT_TRUE(Freeze(1).ok());
  Push(2, 0, 1000);
  const absl::Status written = Await(1);
  EXPECT_TRUE(absl::IsFailedPrecondition(written)) << written;
  const std::vector<Pulled> cut = RowsIn(store());
  ASSERT_TRUE(Freeze(2).ok());
  ASSERT_TRUE(Await(2).ok());
  EXPECT_EQ(RowsOf(2), cut);
}

TEST_P(CheckpointConformance, OneThatNobodyBeganIsRefused) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(5)));
  ASSERT_TRUE(Freeze(1).ok());
  ASSERT_TRUE(Await(1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Await(5)));
}

INSTANTIATE_TEST_SUITE_P(Stores, CheckpointConformance,
                         testing::Values(Kind{"local_1", 1, false}, Kind{"local_3", 3, false},
                                         Kind{"remote_1", 1, true}, Kind{"remote_3", 3, true}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace savior
