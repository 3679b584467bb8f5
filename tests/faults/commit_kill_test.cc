// A process killed between any two durable steps of a commit, of its files, its publication and the
// deletion of an old one: what is there then is the old commit or the new one, each whole.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "common/failpoint.h"
#include "common/files.h"
#include "launcher/commit.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kCommits = 4;

absl::Status Fill(const fs::path& part) {
  fs::create_directories(part / "shard-0");
  SAVIOR_RETURN_IF_ERROR(WriteFile(part / kDenseFile, "weights"));
  return WriteFile(part / "shard-0" / "1.sst", std::string(5000, 'r'));
}

absl::Status CommitAndPrune(const fs::path& folder, int64_t step) {
  CommitManifest manifest;
  manifest.step = step;
  manifest.shards = 1;
  SAVIOR_RETURN_IF_ERROR(WriteCommit(folder / "commits", manifest, Fill).status());
  // Announced: whoever sees this may rely on it.
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder / "announced", std::to_string(step)));
  return KeepNewest(folder / "commits", 1);
}

// Some commits in a process of its own, which ends at hit `hit` of `point`. True: it did.
bool CommitUntil(const fs::path& folder, const std::string& point, int hit) {
  const pid_t child = ::fork();  // no threads here, and no RocksDB
  if (child == 0) {
    bool ok = ArmFailpoints(fmt::format("{}=exit@{}", point, hit)).ok();
    for (int64_t step = 1; ok && step <= kCommits; ++step) ok = CommitAndPrune(folder, step).ok();
    ::_exit(ok ? 0 : 1);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  EXPECT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == kFailpointExit) << status;
  return WEXITSTATUS(status) == kFailpointExit;
}

TEST(CommitKill, LeavesTheOldCommitOrTheNewOneAndNeverAPart) {
  int kills = 0, points = 0, partial = 0, lost = 0;
  for (const FailpointInfo& point : kFailpoints) {
    const std::string name(point.name);
    if (!name.starts_with("file.") && !name.starts_with("folder.") &&
        !name.starts_with("commit.") && !name.starts_with("prune.")) {
      continue;
    }
    bool ended = true;
    for (int hit = 1; ended; ++hit) {
      const TempFolder folder("/dev/shm");
      SCOPED_TRACE(fmt::format("{}, hit {}", name, hit));
      ended = CommitUntil(folder.path(), name, hit);
      if (!ended) break;
      ++kills;
      points += hit == 1;
      const auto text = ReadFile(folder / "announced");
      const int64_t announced = text.ok() ? std::stoll(*text) : 0;
      int64_t newest = 0;
      for (const fs::path& commit : ListCommits(folder / "commits")) {
        const auto opened = OpenCommit(commit, /*digests=*/true);
        EXPECT_TRUE(opened.ok()) << opened.status();
        partial += !opened.ok();
        if (opened.ok()) newest = opened->manifest.step;
      }
      // The one that was told of, or the next, which was being written.
      EXPECT_TRUE(newest == announced || newest == announced + 1) << newest << ", " << announced;
      lost += newest < announced;
      // Whoever goes on is not in the way of what was left, and leaves nothing of it.
      ASSERT_TRUE(CommitAndPrune(folder.path(), newest + 1).ok());
      size_t names = 0;
      for (const auto& entry : fs::directory_iterator(folder / "commits")) {
        ++names;
        EXPECT_EQ(entry.path(), CommitFolder(folder / "commits", newest + 1));
      }
      EXPECT_EQ(names, 1u);
    }
  }
  EXPECT_GE(points, 15);
  PrintFigure("commit_kill", fmt::format("{} kills at {} points: {} commits partial, {} lost",
                                         kills, points, partial, lost));
}

// The commit of another codebook, by its manifest alone.
TEST(CommitKill, OfARepublishedOneLeavesItAsItWasOrAsItWillBe) {
  int kills = 0, former = 0;
  for (const FailpointInfo& point : kFailpoints) {
    const std::string name(point.name);
    if (!name.starts_with("file.")) continue;
    SCOPED_TRACE(name);
    const TempFolder folder("/dev/shm");
    const fs::path commits = folder / "commits";
    CommitManifest manifest;
    manifest.step = 5;
    manifest.shards = 1;
    manifest.codebook = {.version = 1, .since_step = 5, .previous = 0, .probation = true};
    ASSERT_TRUE(WriteCommit(commits, manifest, Fill).ok());
    const auto roll_back = [&] {
      return RepublishCommit(
                 commits, 5,
                 [](CommitManifest* changed) { changed->codebook = RolledBack(changed->codebook); })
          .status();
    };
    const pid_t child = ::fork();
    if (child == 0) ::_exit(ArmFailpoints(name + "=exit").ok() && roll_back().ok() ? 0 : 1);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << status;
    ASSERT_EQ(WEXITSTATUS(status), kFailpointExit);
    ++kills;
    const auto opened = OpenCommit(CommitFolder(commits, 5), /*digests=*/true);
    ASSERT_TRUE(opened.ok()) << opened.status();
    if (opened->manifest.codebook == manifest.codebook) {
      ++former;
      ASSERT_TRUE(roll_back().ok());
    }
    EXPECT_EQ(NewestCommit(commits)->manifest.codebook, RolledBack(manifest.codebook));
  }
  EXPECT_GT(former, 0);
  EXPECT_LT(former, kills);
}

}  // namespace
}  // namespace savior
