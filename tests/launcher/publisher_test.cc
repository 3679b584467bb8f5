// Training that publishes bundles while it goes on, and what must not come of it: other bits, an
// end of the run, a commit that is gone while it is read.

#include "launcher/publisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <thread>

#include "launcher/bundle_export.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/mpirun_job.h"
#include "tests/launcher/process.h"
#include "tests/launcher/publishing_run.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kLimit{240};

std::string LogOf(const Config& config) { return *ReadFile(fs::path(config.run.dir) / "log"); }

int64_t Count(const std::string& text, const std::string& what) {
  int64_t count = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++count;
  return count;
}

class PublisherTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Named(const std::string& name) { return SmallRun(folder_->path(), name); }
  static Config Publishing(const std::string& name) { return ThatPublishes(Named(name)); }
  static void ExpectWhole(const Config& config) {
    const fs::path dir = config.exports.dir;
    const auto verified = VerifyBundle(dir, *CurrentBundle(dir));
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_LE(verified->parity.max_difference, 1e-5);
    EXPECT_GT(verified->rows_compared, 100);
  }

  static TempFolder* folder_;
};
TempFolder* PublisherTest::folder_ = nullptr;

TEST_F(PublisherTest, BundlesAppearWhileTrainingGoesOnAndChangeNoBit) {
  Config plain = Named("plain");
  Config config = Publishing("publishing");
  plain.train.max_steps = config.train.max_steps = 55;
  RunToTheEnd(plain);
  config.commit.keep = 1;
  size_t seen = 0;  // while training goes on
  const RunOptions options =
      WaitingForExports(config, [&](int64_t) { seen = BundlesIn(config.exports.dir).size(); });
  std::ostringstream out;
  const auto result = Train(config, options, out);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GE(seen, 5u);
  ExpectSame(plain, config);
  ExpectWhole(config);

  const std::map<int64_t, int64_t> bundles = BundlesIn(config.exports.dir);
  std::vector<int64_t> sequences;
  for (const auto& [step, sequence] : bundles) sequences.push_back(sequence);
  ASSERT_GE(sequences.size(), 6u);
  for (size_t i = 0; i < sequences.size(); ++i) {
    EXPECT_EQ(sequences[i], static_cast<int64_t>(i % 3)) << "a full one, then two deltas";
  }
  const Bundle last = *OpenBundle(fs::path(config.exports.dir) / *CurrentBundle(config.exports.dir),
                                  /*digests=*/true);
  EXPECT_EQ(last.manifest.step, LearnedBy(config).step) << "the end of the run";
  EXPECT_FALSE(last.manifest.metrics.empty()) << "with the run's result";
  const std::string log = LogOf(config);
  EXPECT_THAT(log,
              AllOf(HasSubstr("export | "), HasSubstr("golden requests"),
                    HasSubstr("(" + std::to_string(bundles.size()) + " published, 0 failed)")));
  EXPECT_EQ(ListCommits(fs::path(config.run.dir) / "commits").size(), 1u);
  EXPECT_FALSE(fs::exists(fs::path(config.run.dir) / "export")) << "the children's own files";
}

TEST_F(PublisherTest, AnIntervalWithoutAFolderIsRefused) {
  Config config = Publishing("nowhere");
  config.exports.dir.clear();
  const auto result = TrainQuietly(config);
  EXPECT_TRUE(absl::IsInvalidArgument(result.status())) << result.status();
  EXPECT_NE(result.status().message().find("export.dir"), std::string::npos);
}

TEST_F(PublisherTest, WithoutAnIntervalTheLastCommitIsPublished) {
  Config config = Publishing("at-the-end");
  config.exports.every_s = 0;
  config.exports.precision = "float16";
  std::ostringstream out;
  ASSERT_TRUE(Train(config, WaitingForExports(config), out).ok());
  EXPECT_EQ(BundlesIn(config.exports.dir),
            (std::map<int64_t, int64_t>{{LearnedBy(config).step, 0}}));
  const Bundle bundle = *OpenBundle(
      fs::path(config.exports.dir) / *CurrentBundle(config.exports.dir), /*digests=*/true);
  EXPECT_EQ(bundle.manifest.precision, Precision::kFloat16);
}

TEST_F(PublisherTest, ARunThatGoesOnContinuesItsChainAndAnotherStartsOne) {
  Config config = Publishing("resumed");
  config.exports.every_s = 0;
  config.train.max_steps = 20;
  const RunOptions options = WaitingForExports(config);
  std::ostringstream out;
  ASSERT_TRUE(Train(config, options, out).ok());
  RunOptions resume = options;
  resume.resume = true;
  config.train.max_steps = 30;
  ASSERT_TRUE(Train(config, resume, out).ok());
  EXPECT_EQ(BundlesIn(config.exports.dir), (std::map<int64_t, int64_t>{{20, 0}, {30, 1}}));
  // Again, at its end: there is nothing to add.
  ASSERT_TRUE(Train(config, resume, out).ok());
  EXPECT_EQ(BundlesIn(config.exports.dir).size(), 2u);
  // Another run into the same folder, of other columns.
  Config other = Named("resumed-other");
  other.model.id_dim = 4;
  other.train.max_steps = 40;
  other.exports = config.exports;
  other.exports.keep = 1;
  ASSERT_TRUE(Train(other, options, out).ok());
  EXPECT_EQ(BundlesIn(config.exports.dir), (std::map<int64_t, int64_t>{{40, 0}}));
  EXPECT_THAT(LogOf(other), HasSubstr("is of another run"));
}

// A file where the folder should be: root may write anywhere else.
TEST_F(PublisherTest, AnExportThatFailsIsCountedAndEndsNothing) {
  Config plain = Named("plain-2");
  Config config = Publishing("failing");
  plain.train.max_steps = config.train.max_steps = 35;
  RunToTheEnd(plain);
  std::ofstream(config.exports.dir) << "in the way";
  config.train.metrics_every_s = 1e-6;
  const auto failures = [&] {
    return fs::exists(fs::path(config.run.dir) / "log") ? Count(LogOf(config), "failed: exit code")
                                                        : 0;
  };
  const RunOptions options = WaitingForExports(config);
  std::ostringstream out;
  const auto result = Train(config, options, out);
  ASSERT_TRUE(result.ok()) << result.status();
  ExpectSame(plain, config);
  const std::string log = LogOf(config);
  EXPECT_GE(failures(), 2) << "tried again when the next was due";
  EXPECT_THAT(log, AllOf(HasSubstr("export | savior: folder " + config.exports.dir),
                         HasSubstr("training goes on"),
                         HasSubstr("the run's last commit is not published; do it by hand")));
  std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
  std::string line, last;
  while (std::getline(metrics, line)) last = line;
  EXPECT_GT(nlohmann::json::parse(last).at("bundles").at("failed"), 0);
  EXPECT_EQ(nlohmann::json::parse(last).at("bundles").at("published"), 0);
}

TEST_F(PublisherTest, AProgramThatIsNotThereIsAFailureToo) {
  Config config = Publishing("no-program");
  config.train.max_steps = 5;
  RunOptions options;
  options.program = (folder_->path() / "no-such-savior").string();
  std::ostringstream out;
  ASSERT_TRUE(Train(config, options, out).ok());
  EXPECT_THAT(LogOf(config), HasSubstr("failed: exit code 127"));
}

// A stop is asked for while one is exported: the run ends at once, and so does the child.
TEST_F(PublisherTest, AStoppedRunLeavesNoChildAndNothingHalf) {
  Config config = Publishing("stopped");
  std::atomic<bool> stop = false;
  const fs::path scratch = fs::path(config.run.dir) / "export";
  config.train.epochs = 20;
  RunOptions options;
  options.program = SAVIOR_PROGRAM;
  options.after_step = [&](int64_t, const StepFigures&) {
    if (!ProcessesWith(config.exports.dir).empty()) stop = true;
  };
  options.stop = &stop;
  std::ostringstream out;
  EXPECT_TRUE(absl::IsCancelled(Train(config, options, out).status()));
  EXPECT_TRUE(ProcessesWith(config.exports.dir).empty());
  EXPECT_FALSE(fs::exists(scratch));
  // And it goes on, over what the killed one has left.
  config.train.max_steps = LearnedBy(config).step + 5;
  RunOptions resume = WaitingForExports(config);
  resume.resume = true;
  ASSERT_TRUE(Train(config, resume, out).ok());
  ExpectWhole(config);
  for (const auto& entry : fs::directory_iterator(config.exports.dir)) {
    EXPECT_THAT(entry.path().string(), testing::Not(testing::EndsWith(".part")));
  }
}

// The lead publishes; all workers commit for it after the same step.
TEST_F(PublisherTest, UnderMpirunTheLeadPublishes) {
  Config config = Publishing("mpi");
  config.ps.ram_budget_mb = 64;
  config.train.epochs = 1000;
  ChildProcess training(MpirunJob(3, config), folder_->path());
  const auto limit = std::chrono::steady_clock::now() + kLimit;
  while (!fs::exists(config.exports.dir) || BundlesIn(config.exports.dir).size() < 3) {
    ASSERT_LT(std::chrono::steady_clock::now(), limit);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  training.Signal(SIGUSR1);
  const Ended stopped = training.Wait(kLimit);
  ASSERT_EQ(stopped.code, 0) << stopped.err;
  EXPECT_THAT(stopped.err, HasSubstr("stopped after step"));
  EXPECT_TRUE(ProcessesWith(config.exports.dir).empty());
  EXPECT_EQ(Count(LogOf(config), " failed: "), 0);

  // That was its end: what is left is to evaluate and to publish.
  config.train.max_steps = LearnedBy(config).step;
  Config plain = config;
  plain.run.dir = (folder_->path() / "mpi-plain").string();
  plain.exports = {};
  const Ended ended =
      ChildProcess(MpirunJob(3, config, {"--resume"}), folder_->path()).Wait(kLimit);
  ASSERT_EQ(ended.code, 0) << ended.err;
  const Ended other = ChildProcess(MpirunJob(3, plain), folder_->path()).Wait(kLimit);
  ASSERT_EQ(other.code, 0) << other.err;
  ExpectSame(plain, config);
  ExpectWhole(config);
  EXPECT_EQ(BundlesIn(config.exports.dir).rbegin()->first, config.train.max_steps);
  EXPECT_EQ(Count(LogOf(config), " failed: "), 0);
}

}  // namespace
}  // namespace savior
