// Power fails at every sync of commits that are written while pushes go on: what was announced is
// there, and what is there is whole.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/files.h"
#include "tests/common/small_disk.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/committing_store.h"
#include "tests/faults/faulty_disk.h"
#include "tests/faults/figure.h"
#include "tests/faults/synced_tree.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr int kCommitsAtATime = 4;

// What was on disk when power failed.
struct PowerCutAt {
  fs::path folder;
  std::string path;   // whose sync was the last
  int64_t announced;  // the newest commit that the run had been told is there; -1: none
  bool lucky;         // some of what was not synced is there, too
};

class PowerLoss : public testing::Test {
 protected:
  PowerLoss() : seed_(TestSeed()), random_(seed_, 1) {
    fs::create_directories(disk_ / "root");
    fs::create_directories(disk_ / "kept");
    tree_ = std::make_unique<SyncedTree>(disk_ / "root", disk_ / "kept");
  }

  // Twice after each sync below the run's folder: with nothing that was not synced, and with some.
  void CutPowerAtEverySync(FaultyDisk* faulty) {
    faulty->OnSync([this](const std::string& path) -> std::function<void()> {
      const SyncedTree::Look look = tree_->LookAt(path);
      if (look.inode == 0) return nullptr;
      return [this, look, path] {
        tree_->Synced(look);
        const std::lock_guard lock(mutex_);
        for (const bool lucky : {false, true}) {
          const fs::path to = disk_ / fmt::format("cut-{}", cut_++);
          const int64_t announced = announced_;
          tree_->PowerCut(to, lucky ? &random_ : nullptr);
          cuts_.push_back({to, path, announced, lucky});
        }
      };
    });
  }

  // What the cuts have left.
  struct Seen {
    size_t cuts = 0, whole = 0, lost = 0, partial = 0;
    std::set<int64_t> compared = {};  // steps of commits whose rows were
  };

  void LookAtCuts(const CommittingStore& store, Seen* seen) {
    // Power may also fail a while after the last commit, without another sync.
    for (const bool lucky : {false, true}) {
      const fs::path to = disk_ / fmt::format("cut-{}", cut_++);
      tree_->PowerCut(to, lucky ? &random_ : nullptr);
      cuts_.push_back({to, "the last", announced_, lucky});
    }
    const fs::path commits = fs::relative(store.commits(), disk_ / "root");
    for (const PowerCutAt& cut : cuts_) {
      SCOPED_TRACE(fmt::format("{}, power failed after the sync of {}, {}", cut.folder.string(),
                               cut.path, cut.lucky ? "with luck" : "without luck"));
      ++seen->cuts;
      int64_t newest = -1;
      for (const fs::path& commit : ListCommits(cut.folder / commits)) {
        const auto opened = OpenCommit(commit, /*digests=*/true);
        EXPECT_TRUE(opened.ok()) << opened.status();
        seen->partial += !opened.ok();
        if (!opened.ok()) continue;
        ++seen->whole;
        newest = opened->manifest.step;
        if (seen->compared.insert(newest).second) store.ExpectHolds(commit, newest);
      }
      EXPECT_GE(newest, cut.announced);
      seen->lost += newest < cut.announced;
      fs::remove_all(cut.folder);
    }
    cuts_.clear();
  }

  const TempFolder disk_{"/dev/shm"};
  const uint64_t seed_;
  std::unique_ptr<SyncedTree> tree_;
  std::atomic<int64_t> announced_ = -1;
  std::mutex mutex_;
  Random random_;                 // guarded by mutex_
  int cut_ = 0;                   // guarded by mutex_
  std::vector<PowerCutAt> cuts_;  // guarded by mutex_
};

// Commits with pushes between and meanwhile, the shards' files in `live`.
void CommitAndPush(CommittingStore* store, int commits, std::atomic<int64_t>* announced) {
  for (int i = 0; i < commits; ++i) {
    for (int p = 0; p < 3; ++p) ASSERT_TRUE(store->Push().ok());
    ASSERT_TRUE(store->Begin().ok());
    std::optional<CommitOutcome> outcome;
    for (int p = 0; p < 5 && !outcome; ++p) {
      ASSERT_TRUE(store->Push().ok());
      outcome = store->Take(/*wait=*/false);
    }
    if (!outcome) outcome = store->Take(/*wait=*/true);
    ASSERT_TRUE(outcome->status.ok()) << outcome->status;
    *announced = outcome->step;
    store->Prune(2);
  }
}

TEST_F(PowerLoss, AnAnnouncedCommitSurvivesAndAnotherIsWholeOrNotThere) {
  // Shards' files on the same file system, which are linked, and on another one: one of memory,
  // too, if it may be had, since nothing here needs a disk's time.
  const SmallDisk other(256);
  const TempFolder elsewhere(other.mounted() ? other / "" : fs::temp_directory_path());
  const int commits = kCommitsAtATime * (LongForm() ? 5 : 1);
  Seen seen;
  for (const fs::path& live : {disk_ / "live", elsewhere / "live"}) {
    SCOPED_TRACE(live);
    FaultyDisk faulty;
    CutPowerAtEverySync(&faulty);
    CommittingStore store(disk_ / "root" / (live.parent_path() == disk_.path() ? "a" : "b"), live,
                          seed_);
    // Every few commits, so that what the cuts have left does not fill the memory.
    for (int done = 0; done < commits; done += kCommitsAtATime) {
      CommitAndPush(&store, kCommitsAtATime, &announced_);
      LookAtCuts(store, &seen);
    }
    faulty.OnSync(nullptr);
    EXPECT_EQ(seen.compared.size(), static_cast<size_t>(commits));
    seen.compared.clear();
    announced_ = -1;
  }
  PrintFigure("power_loss",
              fmt::format("{} power cuts in {} commits: {} announced commits lost, {} partial, {} "
                          "whole",
                          seen.cuts, 2 * commits, seen.lost, seen.partial, seen.whole));
}

// A small file that is replaced again and again: the newest that was announced, or the next.
TEST_F(PowerLoss, AReplacedFileIsTheOldOrTheNewOne) {
  FaultyDisk faulty;
  CutPowerAtEverySync(&faulty);
  for (int64_t i = 0; i < 20; ++i) {
    const std::string text = std::string(static_cast<size_t>(100 * i + 1), 'x') + "\n";
    ASSERT_TRUE(WriteFileAtomically(disk_ / "root" / "file", text).ok());
    announced_ = i;
  }
  faulty.OnSync(nullptr);
  // Also when power fails a while later, without another sync.
  tree_->PowerCut(disk_ / "last", nullptr);
  cuts_.push_back({disk_ / "last", "", announced_, false});
  for (const PowerCutAt& cut : cuts_) {
    SCOPED_TRACE(fmt::format("after the sync of {}", cut.path));
    const auto text = ReadFile(cut.folder / "file");
    if (cut.announced < 0 && !text.ok()) continue;
    ASSERT_TRUE(text.ok()) << text.status();
    ASSERT_TRUE(text->ends_with('\n')) << "cut off after " << text->size() << " bytes";
    const auto written = static_cast<int64_t>((text->size() - 2) / 100);
    EXPECT_GE(written, cut.announced);
    EXPECT_LE(written, cut.announced + 1);
  }
}

// A folder with one in it, written by who syncs nothing: all of it, or none.
TEST_F(PowerLoss, APublishedFolderIsWholeOrNotThere) {
  const fs::path root = disk_ / "root";
  FaultyDisk faulty;
  CutPowerAtEverySync(&faulty);
  ASSERT_TRUE(MakeWritableFolder(root / "x.part" / "tables").ok());
  for (const char* name : {"a", "tables/b", "tables/c"}) {
    std::ofstream(root / "x.part" / name) << std::string(10'000, *name);
  }
  ASSERT_TRUE(PublishFolder(root / "x.part", root / "x").ok());
  announced_ = 0;
  faulty.OnSync(nullptr);
  tree_->PowerCut(disk_ / "last", nullptr);
  cuts_.push_back({disk_ / "last", "the last", announced_, false});
  for (const PowerCutAt& cut : cuts_) {
    SCOPED_TRACE(cut.path);
    EXPECT_TRUE(cut.announced < 0 || fs::exists(cut.folder / "x"));
    if (!fs::exists(cut.folder / "x")) continue;
    for (const char* name : {"a", "tables/b", "tables/c"}) {
      const auto bytes = ReadFile(cut.folder / "x" / name);
      EXPECT_TRUE(bytes.ok() && *bytes == std::string(10'000, *name)) << name;
    }
  }
}

}  // namespace
}  // namespace savior
