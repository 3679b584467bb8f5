// Damaged and missing table files under live shards: an error that says where, from then on for
// every call, and never a row that is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ps/local_store.h"
#include "ps/shard.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/corruption.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint32_t kDim = 16;
constexpr uint64_t kRows = 20'000;

class ReadErrorTest : public testing::Test {
 protected:
  // One shard with kRows rows of "t", nearly none of them in RAM; "other" is small and all in RAM.
  void Make(const EvictionSpec& eviction = {}) {
    std::vector<TableSpec> tables = {AlignSpec("t", kDim, Optimizer(OptimizerKind::kSgd, 1)),
                                     AlignSpec("other", kDim, Optimizer(OptimizerKind::kSgd, 1))};
    tables[0].eviction = eviction;
    store_ = *LocalStore::Open({.tables = tables,
                                .shards = 1,
                                .ram_budget_bytes = 150'000,
                                .folder = folder_ / "live",
                                .steps_per_minute = 1});
    const std::vector<float> grads(1000 * kDim, -1.0f);
    for (uint64_t begin = 0; begin < kRows; begin += 1000) {
      ASSERT_TRUE(PushRows(*store_, 1, 0, Keys(begin, begin + 1000), grads).ok());
    }
    ASSERT_TRUE(PushRows(*store_, 1, 1, Keys(0, 8), std::vector<float>(8 * kDim, -1.0f)).ok());
    // Writes table files.
    ASSERT_TRUE(store_->Checkpoint(folder_ / "point", Soon()).ok());
  }
  fs::path Live() const { return folder_ / "live/shard-0"; }

  absl::Status Pull(uint32_t table, const std::vector<uint64_t>& keys) {
    std::vector<float> rows(keys.size() * kDim, -77.0f);
    const TablePull pull{.table = table, .keys = keys, .rows = rows};
    absl::Status status = store_->Pull({&pull, 1}, Soon());
    if (status.ok() && table == 0) {
      EXPECT_EQ(rows, std::vector<float>(keys.size() * kDim, 1.0f)) << "never a wrong row";
    }
    return status;
  }

  // Every call of the shard now says `file`, also those that the damage has nothing to do with.
  void ExpectStopped(const fs::path& file) {
    const std::vector<uint64_t> keys = Keys(0, 8);
    const std::vector<float> values(8 * kDim, 1.0f);
    for (const absl::Status& status :
         {Pull(0, keys), Pull(1, keys), PushRows(*store_, 9, 1, keys, values),
          store_->Checkpoint(folder_ / "later", Soon()),
          store_->ForEachRow(
              1, [](const StoredRow&) { return absl::OkStatus(); }, Soon())}) {
      EXPECT_TRUE(absl::IsDataLoss(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr(file.filename().string()));
      EXPECT_THAT(status.message(), HasSubstr("table t"));
      EXPECT_THAT(status.message(), HasSubstr("shard 0"));
    }
    EXPECT_TRUE(HintRows(*store_, 0, keys).ok());
    EXPECT_TRUE(store_->CancelHints(0).ok());
  }

  // Calls that need nothing from disk, until one fails, for at most some seconds.
  absl::Status WaitForError() {
    absl::Status status;
    for (int i = 0; i < 1000 && status.ok(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      status = Pull(1, Keys(0, 8));
    }
    return status;
  }

  const TempFolder folder_;
  std::unique_ptr<LocalStore> store_;
};

TEST_F(ReadErrorTest, APullThatMeetsFlippedBytesStopsTheShard) {
  Make();
  const fs::path hurt = FlipBytes(Live());
  absl::Status status;
  for (uint64_t key = 0; key < kRows && status.ok(); key += 100) {
    status = Pull(0, Keys(key, key + 100));
  }
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr(hurt.string()));
  ExpectStopped(hurt);
}

TEST_F(ReadErrorTest, APushThatMeetsFlippedBytesStopsTheShard) {
  Make();
  const fs::path hurt = FlipBytes(Live());
  absl::Status status;
  const std::vector<float> grads(100 * kDim, 0.0f);
  for (uint64_t key = 0; key < kRows && status.ok(); key += 100) {
    status = PushRows(*store_, 2, 0, Keys(key, key + 100), grads);
  }
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  ExpectStopped(hurt);
}

// Nobody waits for a hint: what its read met, the next call says, whatever it asks for.
TEST_F(ReadErrorTest, AHintThatMeetsFlippedBytesStopsTheShard) {
  Make();
  const fs::path hurt = FlipBytes(Live());
  for (uint64_t key = 0; key < kRows; key += 50) {
    const std::vector<uint64_t> keys = Keys(key, key + 50);
    const TableKeys hint{.table = 0, .keys = keys};
    ASSERT_TRUE(store_->Hint(static_cast<int64_t>(2 + key % 40), {&hint, 1}).ok());
  }
  const absl::Status status = WaitForError();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("hint"));
  ExpectStopped(hurt);
}

// The same for work that nobody asked for.
TEST_F(ReadErrorTest, ASweepThatMeetsFlippedBytesStopsTheShard) {
  Make({.idle_steps = 4, .max_share_per_minute = 1});
  const fs::path hurt = FlipBytes(Live());
  for (int64_t step = 2; step < 400; step += 40) {
    const absl::Status pushed =
        PushRows(*store_, step, 1, Keys(0, 8), std::vector<float>(8 * kDim, 0.0f));
    if (!pushed.ok()) break;  // the sweep was faster
  }
  const absl::Status status = WaitForError();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  ExpectStopped(hurt);
}

TEST_F(ReadErrorTest, ATruncatedFileStopsTheShard) {
  Make();
  const fs::path hurt = LargestTableFile(Live());
  fs::resize_file(hurt, 4096);
  absl::Status status;
  for (uint64_t key = 0; key < kRows && status.ok(); key += 100) {
    status = Pull(0, Keys(key, key + 100));
  }
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  ExpectStopped(hurt);
}

// A file that is open can be read after it has been deleted; the next checkpoint misses it.
TEST_F(ReadErrorTest, ADeletedFileStopsTheShardAtTheNextCheckpoint) {
  Make();
  const fs::path hurt = LargestTableFile(Live());
  fs::remove(hurt);
  for (uint64_t key = 0; key < kRows; key += 1000) {
    const absl::Status status = Pull(0, Keys(key, key + 1000));
    ASSERT_TRUE(status.ok()) << status;
  }
  const absl::Status status = store_->Checkpoint(folder_ / "later", Soon());
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr(hurt.filename().string()));
  EXPECT_THAT(status.message(), HasSubstr("shard 0"));
  const absl::Status after = Pull(1, Keys(0, 8));
  EXPECT_TRUE(absl::IsDataLoss(after)) << after;
}

}  // namespace
}  // namespace savior
