// A run stopped, killed or moved to other shards ends as one that was left alone: bit for bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include "launcher/commit.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

// One data set, and one run on it that was never disturbed.
class Resume : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    RunToTheEnd(Undisturbed());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Undisturbed() { return Named("undisturbed"); }
  static Config Named(const std::string& name) {
    Config config = SmallRun(folder_->path(), name);
    config.train.epochs = 2;
    return config;
  }
  static int64_t StepsOf(const Config& config) {
    return NewestCommit(fs::path(config.run.dir) / "commits")->manifest.step;
  }

  static TempFolder* folder_;
};
TempFolder* Resume::folder_ = nullptr;

TEST_F(Resume, HasEnoughStepsToStopAt) { EXPECT_GT(StepsOf(Undisturbed()), 100); }

TEST_F(Resume, TheSameSeedTwiceIsTheSameRun) {
  RunToTheEnd(Named("twice"));
  ExpectSame(Undisturbed(), Named("twice"));
}

TEST_F(Resume, AnotherSeedIsAnotherRun) {
  Config config = Named("other-seed");
  config.seed = 2;
  RunToTheEnd(config);
  EXPECT_FALSE(LearnedBy(config) == LearnedBy(Undisturbed()));
}

// In the first epoch, on both sides of its end, and just before the end of the run.
TEST_F(Resume, OfARunStoppedAtAnyStepIsBitIdentical) {
  const int64_t steps = StepsOf(Undisturbed());
  for (const int64_t stop : {int64_t{1}, int64_t{2}, steps / 2 - 1, steps / 2, steps - 1}) {
    SCOPED_TRACE(stop);
    Config config = Named("stopped-at-" + std::to_string(stop));
    config.train.max_steps = stop;
    RunToTheEnd(config);
    ASSERT_EQ(StepsOf(config), stop);
    config.train.max_steps = 0;
    RunToTheEnd(config, /*resume=*/true);
    ExpectSame(Undisturbed(), config);
  }
}

TEST_F(Resume, ManyTimesWithOtherShardsAndBudgetsIsBitIdentical) {
  Config config = Named("many-times");
  int64_t shards = 1;
  for (const int64_t stop : {5, 17, 40, 83, 0}) {
    config.train.max_steps = stop;
    config.ps.shards = shards++;
    config.ps.ram_budget_mb = shards % 2 == 0 ? 1 : 64;
    config.commit.every_steps = 4 + shards;
    RunToTheEnd(config, /*resume=*/true);
  }
  ExpectSame(Undisturbed(), config);
}

// On a file system of their own, as a node's local disk is: links do not reach it.
TEST_F(Resume, WithWorkingFilesElsewhereIsBitIdentical) {
  const TempFolder memory("/dev/shm");
  Config config = Named("elsewhere");
  config.ps.live_dir = (memory / "live").string();
  config.ps.shards = 2;
  config.train.max_steps = 30;
  RunToTheEnd(config);
  EXPECT_TRUE(fs::exists(memory / "live" / "shard-1"));
  EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "live"));
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
  ExpectSame(Undisturbed(), config);
}

// Every commit was written while later steps changed its rows: going on from any of them gives the
// run that never wrote one.
TEST_F(Resume, FromEveryCommitThatWasWrittenWhileTrainingWentOnIsBitIdentical) {
  Config config = Named("committing");
  config.commit.every_steps = 3;
  config.commit.keep = 10'000;
  config.ps.shards = 2;
  config.ps.ram_budget_mb = 1;
  config.train.max_steps = 60;
  RunToTheEnd(config);
  const fs::path commits = fs::path(config.run.dir) / "commits";
  std::vector<fs::path> all = ListCommits(commits);
  ASSERT_EQ(all.size(), 20u);
  config.train.max_steps = 0;
  for (const size_t newest : {size_t{15}, size_t{8}, size_t{0}}) {
    SCOPED_TRACE(all[newest]);
    for (const fs::path& folder : ListCommits(commits)) {
      if (folder > all[newest]) fs::remove_all(folder);
    }
    ASSERT_EQ(StepsOf(config), static_cast<int64_t>(3 * (newest + 1)));
    RunToTheEnd(config, /*resume=*/true);
    ExpectSame(Undisturbed(), config);
  }
}

// Table files are shared from commit to commit, and outlive the commit that they came with.
TEST_F(Resume, CommitsShareFilesAndOutliveEachOther) {
  const TempFolder memory("/dev/shm");
  for (const bool elsewhere : {false, true}) {
    SCOPED_TRACE(elsewhere);
    Config config = Named(elsewhere ? "sharing-elsewhere" : "sharing");
    if (elsewhere) config.ps.live_dir = (memory / "live").string();
    config.commit.every_steps = 10;
    config.commit.keep = 100;
    config.train.max_steps = 40;
    RunToTheEnd(config);
    const std::vector<fs::path> all = ListCommits(fs::path(config.run.dir) / "commits");
    ASSERT_EQ(all.size(), 4u);
    size_t shared = 0;
    for (const auto& entry : fs::directory_iterator(all[3] / "shard-0")) {
      std::error_code error;
      shared += fs::equivalent(entry.path(), all[2] / "shard-0" / entry.path().filename(), error);
    }
    EXPECT_GE(shared, 1u);
    EXPECT_TRUE(fs::equivalent(all[2] / kEncoderFile, all[3] / kEncoderFile));
    for (size_t i = 0; i < 3; ++i) fs::remove_all(all[i]);
    EXPECT_TRUE(OpenCommit(all[3], /*digests=*/true).ok());
  }
}

TEST_F(Resume, OfAFinishedRunScoresItAgain) {
  Config config = Named("finished");
  RunToTheEnd(config);
  fs::remove(fs::path(config.run.dir) / "result.json");
  RunToTheEnd(config, /*resume=*/true);
  ExpectSame(Undisturbed(), config);
}

// The flag that Ctrl-C sets, before the first step (which is done: workers stop after a step that
// they have in common) and in the middle.
TEST_F(Resume, OfARunStoppedByFlagIsBitIdentical) {
  std::atomic<bool> stop = true;
  Config config = Named("flagged");
  const absl::Status before = TrainQuietly(config, {.stop = &stop}).status();
  EXPECT_TRUE(absl::IsCancelled(before)) << before;
  EXPECT_THAT(before.message(), AllOf(HasSubstr("after step 1 "), HasSubstr("--resume")));
  EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "result.json"));

  config.train.metrics_every_s = 1e-6;  // a line per step
  stop = false;
  std::jthread watcher([&](const std::stop_token& end) {
    const auto lines = [&] {
      std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
      return std::count(std::istreambuf_iterator<char>(metrics), {}, '\n');
    };
    while (!end.stop_requested() && lines() < 10)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stop = true;
  });
  const absl::Status middle = TrainQuietly(config, {.resume = true, .stop = &stop}).status();
  ASSERT_TRUE(absl::IsCancelled(middle)) << middle;
  EXPECT_THAT(middle.message(), AllOf(HasSubstr(config.run.dir + "/resolved.toml --resume"),
                                      HasSubstr(config.run.dir + "/commits")));
  const int64_t stopped_at = StepsOf(config);
  EXPECT_GE(stopped_at, 10);
  EXPECT_LT(stopped_at, StepsOf(Undisturbed()));
  watcher.join();
  stop = false;
  ASSERT_TRUE(TrainQuietly(config, {.resume = true, .stop = &stop}).ok());
  ExpectSame(Undisturbed(), config);

  // The mean loss that is shown goes on as well: it does not start from zero.
  std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
  std::string line;
  while (std::getline(metrics, line)) {
    EXPECT_GT(nlohmann::json::parse(line).at("loss_ctr").get<double>(), 0.2) << line;
  }
}

TEST_F(Resume, FromTheCommitBeforeADamagedOneIsBitIdentical) {
  Config config = Named("damaged");
  config.train.max_steps = 30;
  config.commit.every_steps = 20;
  RunToTheEnd(config);
  ASSERT_EQ(StepsOf(config), 30);
  const fs::path dense =
      ListCommits(fs::path(config.run.dir) / "commits").back() / "dense.safetensors";
  std::fstream file(dense, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x55');
  file.close();
  EXPECT_EQ(StepsOf(config), 20);
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
  ExpectSame(Undisturbed(), config);
}

TEST_F(Resume, OnOtherDataIsRefused) {
  const TempFolder other;
  Config config = SmallRun(other.path(), "run");
  MakeRaw(other.path());
  config.train.max_steps = 2;
  RunToTheEnd(config);
  GenerateOptions options = SmallWorld();
  options.seed = 2;
  MakeRaw(other.path(), options);
  const absl::Status status = TrainQuietly(config, {.resume = true}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("fingerprint"));
}

TEST_F(Resume, OfAPlainSecondRunIsRefused) {
  const absl::Status status = TrainQuietly(Undisturbed()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("--resume"));
}

TEST_F(Resume, NumberOfShardsChangesNothing) {
  for (const int64_t shards : {2, 3, 5}) {
    Config config = Named("shards-" + std::to_string(shards));
    config.ps.shards = shards;
    RunToTheEnd(config);
    ExpectSame(Undisturbed(), config);
  }
}

// Rows of 4 KiB, so that the least budget, 1 MiB, is a twentieth of them.
TEST_F(Resume, ARamBudgetOfATwentiethOfTheRowsChangesNothing) {
  const TempFolder folder;
  GenerateOptions options = SmallWorld();
  options.users = 3500;
  options.items = 3500;
  options.requests_per_user_day = 0.08;
  MakeRaw(folder.path(), options);
  Config all = SmallRun(folder.path(), "all-in-ram");
  all.model.id_dim = 512;
  all.train.requests_per_batch = 64;
  all.train.metrics_every_s = 1e-6;
  Config twentieth = all;
  twentieth.run.dir = (folder / "twentieth").string();
  twentieth.ps.ram_budget_mb = 1;
  RunToTheEnd(all);
  RunToTheEnd(twentieth);
  ExpectSame(all, twentieth);

  const Learned learned = LearnedBy(all);
  const uint64_t row_bytes = 2 * 512 * sizeof(float);
  EXPECT_GT((learned.tables.at("user").size() + learned.tables.at("item").size()) * row_bytes,
            uint64_t{19} << 20);
  const auto last_hit_rate = [](const Config& config) {
    std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
    std::string line, last;
    while (std::getline(metrics, line)) last = line;
    return nlohmann::json::parse(last).at("hot_hit_rate").get<double>();
  };
  EXPECT_EQ(last_hit_rate(all), 1.0);
  EXPECT_LT(last_hit_rate(twentieth), 0.9);  // rows did come from RocksDB
}

}  // namespace
}  // namespace savior
