// A disk that is full when a run wants to commit. A small tmpfs, filled and freed at will: needs
// root.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "launcher/commit.h"
#include "tests/common/small_disk.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"
#include "tests/launcher/process.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FullDisk : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    RunToTheEnd(Undisturbed());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Undisturbed() {
    Config config = SmallRun(folder_->path(), "undisturbed");
    config.ps.ram_budget_mb = 64;
    config.train.max_steps = 50;
    return config;
  }
  // The same, with its folder on `disk` and the shards' files elsewhere.
  static Config On(const SmallDisk& disk) {
    Config config = Undisturbed();
    config.run.dir = (disk / "run").string();
    config.ps.live_dir = (folder_->path() / "live").string();
    config.commit.every_steps = 10;
    config.commit.keep = 100;
    config.train.metrics_every_s = 1e-6;  // every step
    config.cluster.lease_s = 20;
    return config;
  }
  static std::vector<int64_t> CommitsOf(const Config& config) {
    std::vector<int64_t> steps;
    for (const fs::path& folder : ListCommits(fs::path(config.run.dir) / "commits")) {
      const auto commit = OpenCommit(folder, /*digests=*/true);
      EXPECT_TRUE(commit.ok()) << commit.status();
      if (commit.ok()) steps.push_back(commit->manifest.step);
    }
    return steps;
  }
  // Commits are written while steps go on: until the one begun last is there, or given up.
  static void WaitForCommits(const Config& config) {
    const fs::path commits = fs::path(config.run.dir) / "commits";
    const auto writing = [&] {
      for (const auto& entry : fs::directory_iterator(commits)) {
        if (entry.path().string().ends_with(kUnfinished)) return true;
      }
      return false;
    };
    while (writing()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  static uintmax_t BytesOfACheckpoint() {
    uintmax_t bytes = 0;
    const auto commit = NewestCommit(fs::path(Undisturbed().run.dir) / "commits");
    for (const SealedFile& file : commit.value().manifest.files) {
      if (file.path.starts_with("shard-")) bytes += file.bytes;
    }
    return bytes;
  }

  static TempFolder* folder_;
};
TempFolder* FullDisk::folder_ = nullptr;

TEST_F(FullDisk, ACommitThatFindsNoRoomIsTriedAgainAtTheNextAndChangesNothing) {
  SmallDisk disk(64);
  SAVIOR_NEEDS(disk);
  const Config config = On(disk);
  const auto after_step = [&](int64_t step, const StepFigures&) {
    if (step == 14 || step == 32) WaitForCommits(config);
    if (step == 14) disk.Fill();
    if (step == 32) disk.Free();
  };
  const auto result = TrainQuietly(config, {.after_step = after_step});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(CommitsOf(config), ElementsAre(10, 40, 50));
  ExpectSame(Undisturbed(), config);
  // Lines of metrics that found no room are missing, and none is in pieces.
  std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
  std::string line;
  int64_t lines = 0, last = 0;
  for (; std::getline(metrics, line); ++lines) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(json.is_object()) << line;
    last = json.at("step");
  }
  EXPECT_EQ(last, 50);
  EXPECT_LT(lines, 50);
  EXPECT_GE(lines, 50 - (32 - 14));
  PrintFigure("enospc_commit",
              "2 of 5 commits found no room, the one before stayed, training went on, 3 are whole");
}

TEST_F(FullDisk, ALastCommitThatFindsNoRoomEndsTheRunWithTheOneBefore) {
  SmallDisk disk(64);
  SAVIOR_NEEDS(disk);
  const Config config = On(disk);
  const auto after_step = [&](int64_t step, const StepFigures&) {
    if (step == 24) WaitForCommits(config);
    if (step == 24) disk.Fill();
  };
  const absl::Status status = TrainQuietly(config, {.after_step = after_step}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("commit-000000000050"), HasSubstr("No space left on device")));
  EXPECT_THAT(CommitsOf(config), ElementsAre(10, 20));
  EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "result.json"));
  disk.Free();
  RunToTheEnd(config, /*resume=*/true);
  ExpectSame(Undisturbed(), config);
}

// The same in a run of many processes, where servers write the checkpoints.
TEST_F(FullDisk, AClusterGoesOnToItsEndAndFailsWithTheLastCommit) {
  SmallDisk disk(64);
  SAVIOR_NEEDS(disk);
  Config config = On(disk);
  config.train.metrics_every_s = 60;
  // Room for logs, but not for what a server writes.
  ASSERT_GT(BytesOfACheckpoint(), uintmax_t{80'000});
  disk.Fill(60'000);
  const fs::path file = folder_->path() / "cluster.toml";
  std::ofstream(file) << ToToml(config);
  std::vector<std::string> command = {"/usr/bin/env",
                                      "OMPI_MCA_mpi_yield_when_idle=1",
                                      "mpirun",
                                      "--oversubscribe",
                                      "--bind-to",
                                      "none",
                                      "--allow-run-as-root",
                                      "-n",
                                      "2",
                                      SAVIOR_PROGRAM,
                                      "train",
                                      file.string()};
  constexpr std::chrono::seconds kLimit{240};
  const Ended full = ChildProcess(command, folder_->path()).Wait(kLimit);
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_THAT(full.err, AllOf(HasSubstr("no commit at step 10"), HasSubstr("no commit at step 40"),
                              HasSubstr("does not exist yet"), HasSubstr("commit-000000000050"),
                              HasSubstr(": shard 0"), HasSubstr("o space left on device")));
  EXPECT_THAT(CommitsOf(config), ElementsAre());
  disk.Free();
  command.emplace_back("--resume");
  const Ended freed = ChildProcess(command, folder_->path()).Wait(kLimit);
  EXPECT_EQ(freed.code, 0) << freed.err;
  EXPECT_THAT(CommitsOf(config), ElementsAre(10, 20, 30, 40, 50));
  ExpectSame(Undisturbed(), config);
}

}  // namespace
}  // namespace savior
