// Power fails at every sync of commits that are written while pushes go on: what was announced is
// there, and what is there is whole.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/common/temp_folder.h"
#include "tests/faults/committing_store.h"
#include "tests/faults/faulty_disk.h"
#include "tests/faults/figure.h"
#include "tests/faults/synced_tree.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

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
          const fs::path to = disk_ / fmt::format("cut-{}", cuts_.size());
          const int64_t announced = announced_;
          tree_->PowerCut(to, lucky ? &random_ : nullptr);
          cuts_.push_back({to, path, announced, lucky});
        }
      };
    });
  }

  const TempFolder disk_{"/dev/shm"};
  const uint64_t seed_;
  std::unique_ptr<SyncedTree> tree_;
  std::atomic<int64_t> announced_ = -1;
  std::mutex mutex_;
  Random random_;                 // guarded by mutex_
  std::vector<PowerCutAt> cuts_;  // guarded by mutex_
};

TEST_F(PowerLoss, AnAnnouncedCommitSurvivesAndAnotherIsWholeOrNotThere) {
  const int commits = LongForm() ? 40 : 6;
  FaultyDisk faulty;
  CutPowerAtEverySync(&faulty);
  CommittingStore store(disk_ / "root", disk_ / "live", seed_);
  for (int i = 0; i < commits; ++i) {
    for (int p = 0; p < 3; ++p) ASSERT_TRUE(store.Push().ok());
    ASSERT_TRUE(store.Begin().ok());
    std::optional<CommitOutcome> outcome;
    for (int p = 0; p < 5 && !outcome; ++p) {
      ASSERT_TRUE(store.Push().ok());
      outcome = store.Take(/*wait=*/false);
    }
    if (!outcome) outcome = store.Take(/*wait=*/true);
    ASSERT_TRUE(outcome->status.ok()) << outcome->status;
    announced_ = outcome->step;
    store.Prune(2);
  }
  faulty.OnSync(nullptr);

  std::set<int64_t> compared;
  size_t whole = 0, lost = 0, partial = 0;
  for (const PowerCutAt& cut : cuts_) {
    SCOPED_TRACE(fmt::format("{}, power failed after the sync of {}, {}", cut.folder.string(),
                             cut.path, cut.lucky ? "with luck" : "without luck"));
    const fs::path folder = cut.folder / "run" / "commits";
    int64_t newest = -1;
    for (const fs::path& commit : ListCommits(folder)) {
      const auto opened = OpenCommit(commit, /*digests=*/true);
      EXPECT_TRUE(opened.ok()) << opened.status();
      partial += !opened.ok();
      if (!opened.ok()) continue;
      ++whole;
      newest = opened->manifest.step;
      if (compared.insert(newest).second) store.ExpectHolds(commit, newest);
    }
    EXPECT_GE(newest, cut.announced);
    lost += newest < cut.announced;
  }
  EXPECT_EQ(compared.size(), static_cast<size_t>(commits));
  PrintFigure("power_loss",
              fmt::format("{} power cuts in {} commits: {} announced commits lost, {} partial, {} "
                          "whole; rows of {} compared",
                          cuts_.size(), commits, lost, partial, whole, compared.size()));
}

}  // namespace
}  // namespace savior
