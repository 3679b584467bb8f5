// A disk that answers with errors: whoever meets one stops and names the file, nobody syncs again
// what once failed to, and commits that were there stay. Writes that end short are finished, or the
// commit is given up.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/failpoint.h"
#include "common/files.h"
#include "ps/local_store.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/committing_store.h"
#include "tests/faults/faulty_disk.h"
#include "tests/faults/figure.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// The run's newest commit, every byte of it right.
int64_t NewestIn(const fs::path& commits) {
  const auto newest = NewestCommit(commits);
  EXPECT_TRUE(newest.ok()) << newest.status();
  return newest.ok() ? newest->manifest.step : -1;
}

std::string NameOf(const std::string& path) { return fs::path(path).filename(); }

// A run's second commit, on a disk that fails once. The first, of step 1, is there.
struct FaultyCommit {
  const TempFolder folder{"/dev/shm"};
  FaultyDisk disk;
  CommittingStore store{folder.path(), folder / "live", 1};
  absl::Status status;

  void Make(FileOp op, const std::string& path) {
    ASSERT_TRUE(store.Push().ok());
    ASSERT_TRUE(store.Commit().ok());
    ASSERT_TRUE(store.Push().ok());
    ASSERT_EQ(store.step(), 5);
    disk.Set({.op = op, .path = path});
    status = store.Commit();
    ASSERT_EQ(disk.faults(), 1u);
    // What is not for want of room ends a run (TrainingRun::TakeCommit).
    EXPECT_FALSE(status.ok());
    EXPECT_FALSE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(NameOf(disk.faulty_path())));
  }
};

// What a commit syncs: files of the lead, of the shards' databases before the checkpoint, of the
// checkpoint, and folders.
const std::vector<std::string> kSynced = {
    "dense.safetensors", "resolved.toml", "manifest.json", "live/shard-0/", ".sst",
    "/MANIFEST-",        "/CURRENT",      ".part/shard-1", "000005.part",   "/commits"};

TEST(EioFsync, EndsTheCommitNamesTheFileAndIsNotTriedAgain) {
  int stopped = 0;
  for (const std::string& path : kSynced) {
    SCOPED_TRACE(path);
    FaultyCommit made;
    ASSERT_NO_FATAL_FAILURE(made.Make(FileOp::kSync, path));
    const FaultyDisk& disk = made.disk;
    EXPECT_EQ(disk.again(), 0u) << disk.faulty_path() << " was synced again";
    const bool kept = NewestIn(made.store.commits()) == 1;
    EXPECT_TRUE(kept);
    EXPECT_EQ(ListCommits(made.store.commits()).size(), 1u);
    stopped += !made.status.ok() && kept && disk.again() == 0;
  }
  PrintFigure("eio_fsync", fmt::format("{} of {} files and folders: commit given up, file named, "
                                       "no second fsync, old commit whole",
                                       stopped, kSynced.size()));
}

TEST(EioFsync, EndsARunWithTheFileNamed) {
  const TempFolder folder("/dev/shm");
  MakeRaw(folder.path());
  Config config = SmallRun(folder.path(), "run");
  config.train.max_steps = 12;
  config.commit.every_steps = 3;
  FaultyDisk disk;
  disk.Set({.op = FileOp::kSync, .path = "000006.part/dense.safetensors"});
  const absl::Status status = TrainQuietly(config).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("commit-000000000006.part/dense.safetensors"));
  EXPECT_EQ(NewestIn(fs::path(config.run.dir) / "commits"), 3);
  EXPECT_EQ(disk.again(), 0u);
}

TEST(EioRead, StopsTheShardAndNamesTheFile) {
  const TempFolder folder("/dev/shm");
  FaultyDisk disk;
  const std::vector<TableSpec> tables = {AlignSpec("t", 16, Optimizer(OptimizerKind::kSgd, 1))};
  const auto store = *LocalStore::Open(
      {.tables = tables, .shards = 1, .ram_budget_bytes = 150'000, .folder = folder / "live"});
  for (uint64_t begin = 0; begin < 20'000; begin += 1000) {
    const std::vector<float> grads(1000 * 16, -1.0f);
    ASSERT_TRUE(PushRows(*store, 1, 0, Keys(begin, begin + 1000), grads).ok());
  }
  ASSERT_TRUE(store->Checkpoint(folder / "point", Soon()).ok());
  disk.Set({.op = FileOp::kRead, .path = ".sst"});
  absl::Status status;
  for (uint64_t key = 0; key < 20'000 && status.ok(); key += 100) {
    const std::vector<uint64_t> keys = Keys(key, key + 100);
    std::vector<float> rows(keys.size() * 16);
    const TablePull pull{.table = 0, .keys = keys, .rows = rows};
    status = store->Pull({&pull, 1}, Soon());
  }
  ASSERT_EQ(disk.faults(), 1u);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(NameOf(disk.faulty_path())));
  disk.Clear();  // and stays stopped, though the disk is well again
  const absl::Status after = store->Checkpoint(folder / "later", Soon());
  EXPECT_TRUE(absl::IsDataLoss(after)) << after;
  EXPECT_THAT(std::string(after.message()), HasSubstr(NameOf(disk.faulty_path())));
}

// Digests are taken of files that were just written: one that cannot be read is not committed.
TEST(EioRead, EndsTheCommitAndIsPassedOverAtAStart) {
  const std::vector<std::string> read = {"dense.safetensors", ".sst", "/CURRENT", "/MANIFEST-"};
  int stopped = 0;
  for (const std::string& path : read) {
    SCOPED_TRACE(path);
    FaultyCommit made;
    ASSERT_NO_FATAL_FAILURE(made.Make(FileOp::kRead, path));
    EXPECT_EQ(NewestIn(made.store.commits()), 1);
    // At a start a file that does not read is as one that is damaged: named, and passed over.
    const fs::path folder = ListCommits(made.store.commits()).back();
    made.disk.Set({.op = FileOp::kRead, .path = path});
    const absl::Status opened = OpenCommit(folder, /*digests=*/true).status();
    EXPECT_TRUE(absl::IsDataLoss(opened)) << opened;
    EXPECT_THAT(std::string(opened.message()), HasSubstr(NameOf(made.disk.faulty_path())));
    stopped += !made.status.ok() && absl::IsDataLoss(opened);
  }
  PrintFigure("eio_read",
              fmt::format("{} of {} files: commit given up or passed over, file named; a shard "
                          "stops for good",
                          stopped, read.size()));
}

// A step that fails anywhere on the way of a shard's checkpoint: nobody is ever told that there is
// one.
TEST(Acknowledgement, OfACheckpointNeverComesBeforeItIsWritten) {
  const std::vector<std::string> points = {"shard.before_slice",      "sorted.before_ingest",
                                           "shard.after_slice",       "checkpoint.before_notes",
                                           "checkpoint.before_flush", "checkpoint.before_links",
                                           "checkpoint.after_links"};
  const SlicesAsFiles all(1);
  const TempFolder folder("/dev/shm");
  const std::vector<TableSpec> tables = {AlignSpec("t", 16, Optimizer(OptimizerKind::kSgd, 1))};
  const auto store = *LocalStore::Open(
      {.tables = tables, .shards = 2, .ram_budget_bytes = 1'000'000, .folder = folder / "live"});
  const std::vector<float> grads(1000 * 16, -1.0f);
  int told = 0;
  for (size_t step = 1; step <= points.size(); ++step) {
    SCOPED_TRACE(points[step - 1]);
    const auto name = static_cast<int64_t>(step);
    ASSERT_TRUE(PushRows(*store, name, 0, Keys(0, 1000), grads).ok());
    ASSERT_TRUE(ArmFailpoints(points[step - 1] + "=error").ok());
    ASSERT_TRUE(store->Freeze(name, {.folder = folder / std::to_string(step)}, Soon()).ok());
    absl::StatusOr<bool> written = false;
    while (written.ok() && !*written) written = store->CheckpointWritten(name, Soon());
    EXPECT_FALSE(written.ok()) << "a checkpoint that one shard does not have";
    EXPECT_THAT(std::string(written.status().message()), HasSubstr(points[step - 1]));
    told += written.ok();
    ASSERT_TRUE(ArmFailpoints("").ok());
  }
  const absl::Status after = store->Checkpoint(folder / "after", Soon());
  EXPECT_TRUE(after.ok()) << after;
  PrintFigure(
      "acknowledgement",
      fmt::format("{} of {} checkpoints that failed were told as written", told, points.size()));
}

TEST(ShortWrites, AreFinished) {
  const TempFolder folder("/dev/shm");
  FaultyDisk disk;
  disk.Set({.op = FileOp::kWrite, .path = "file", .times = UINT64_MAX, .short_write = true});
  const std::string bytes(1000, 'x');
  ASSERT_TRUE(WriteFileAtomically(folder / "file", bytes).ok());
  EXPECT_GE(disk.faults(), 8u);
  EXPECT_EQ(*ReadFile(folder / "file"), bytes);
}

// Room for a random part of a commit: it is given up, pushes go on, and with room again the next
// one holds what it should.
TEST(Enospc, AtAnyByteOfACommitKeepsTheOldOneAndRecovers) {
  const int rounds = LongForm() ? 60 : 8;
  Random random(TestSeed());
  int refused = 0;
  const TempFolder folder("/dev/shm");
  FaultyDisk disk;
  CommittingStore store(folder.path(), folder / "live", 1);
  ASSERT_TRUE(store.Push().ok());
  ASSERT_TRUE(store.Commit().ok());
  int64_t newest = 1;
  for (int i = 0; i < rounds; ++i) {
    ASSERT_TRUE(store.Push().ok());
    const uint64_t room = random.Below(150'000);
    SCOPED_TRACE(fmt::format("room for {} bytes", room));
    disk.SetRoom(room);
    const int64_t step = store.step();
    const absl::Status status = store.Commit(/*pushes=*/0);  // they would wait for room
    if (status.ok()) {
      newest = step;
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
      ++refused;
    }
    EXPECT_EQ(NewestIn(store.commits()), newest);
    disk.SetRoom(std::nullopt);
    // RocksDB is asked to go on half a second after it was last asked (ps/cold_store.h).
    absl::Status recovered;
    for (int tries = 0; tries < 20; ++tries) {
      ASSERT_TRUE(store.Push().ok());  // waits for the database, if need be
      newest = store.step();
      recovered = store.Commit(/*pushes=*/0);
      if (recovered.ok()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    ASSERT_TRUE(recovered.ok()) << recovered;
    store.ExpectHolds(CommitFolder(store.commits(), newest), newest);
  }
  EXPECT_GT(refused, 0);
  PrintFigure(
      "enospc_commit_bytes",
      fmt::format("{} of {} commits without room given up and made later", refused, rounds));
}

}  // namespace
}  // namespace savior
