// `savior` killed once at every failpoint that there is, and started again: it ends as one that
// nobody disturbed, bit for bit.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "common/failpoint.h"
#include "common/random.h"
#include "launcher/bundle_export.h"
#include "launcher/commit.h"
#include "serving/bundle.h"
#include "tests/common/temp_folder.h"
#include "tests/faults/figure.h"
#include "tests/launcher/process.h"
#include "tests/launcher/small_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr int64_t kSteps = 10;
constexpr int64_t kStop = 6;  // of what is resumed with a restore to be killed

// Points, and the hits of which one is drawn to kill at.
struct Points {
  const char* prefix;
  uint64_t first, last;
};

class KillEachFailpoint : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder("/dev/shm");
    ASSERT_TRUE(OnAnotherFileSystem(folder_->path()));
    GenerateOptions world = SmallWorld();
    world.users = world.items = 80;
    MakeRaw(folder_->path(), world);
    random_ = new Random(TestSeed());
    covered_ = new std::set<std::string>;
    RunToTheEnd(Named("undisturbed"));
  }
  static void TearDownTestSuite() {
    // All tests together walk the list: each of its points was hit, in a process of its own.
    EXPECT_EQ(covered_->size(), kFailpoints.size());
    for (const FailpointInfo& point : kFailpoints) {
      EXPECT_TRUE(covered_->contains(std::string(point.name))) << point.name << ": never hit";
    }
    PrintFigure("kill_each_failpoint", fmt::format("{} of {} points hit and recovered from",
                                                   covered_->size(), kFailpoints.size()));
    delete covered_;
    delete random_;
    delete folder_;
  }

  static bool OnAnotherFileSystem(const fs::path& path) {
    struct stat here = {}, there = {};
    return ::stat(path.c_str(), &here) == 0 &&
           ::stat(fs::temp_directory_path().c_str(), &there) == 0 && here.st_dev != there.st_dev;
  }
  static Config Named(const std::string& name) {
    Config config = SmallRun(folder_->path(), name);
    config.train.max_steps = kSteps;
    config.train.requests_per_batch = 8;
    config.commit.every_steps = 3;
    config.commit.keep = 1;
    config.ps.shards = 2;
    config.encoder.steps = config.codebook.finetune_steps = 2;
    config.model.prefix_ngrams = true;
    return config;
  }
  static std::vector<std::string> PointsOf(const std::string& prefix) {
    std::vector<std::string> names;
    for (const FailpointInfo& point : kFailpoints) {
      if (point.name.starts_with(prefix)) names.emplace_back(point.name);
    }
    EXPECT_FALSE(names.empty()) << prefix;
    return names;
  }

  static int Failures() {
    return ::testing::UnitTest::GetInstance()->current_test_info()->result()->total_part_count();
  }

  // `savior` with these arguments, told of `armed`.
  static Ended Run(const std::vector<std::string>& arguments, const std::string& armed = "") {
    std::vector<std::string> command = {"/usr/bin/env", "OMP_NUM_THREADS=1"};
    if (!armed.empty()) command.push_back(std::string(kFailpointVariable) + "=" + armed);
    command.emplace_back(SAVIOR_PROGRAM);
    command.insert(command.end(), arguments.begin(), arguments.end());
    return ChildProcess(command, folder_->path()).Wait();
  }
  static std::vector<std::string> TrainCommand(const Config& config) {
    const fs::path file = config.run.dir + ".toml";
    std::ofstream(file) << ToToml(config);
    return {"train", file.string(), "--resume"};
  }
  // Kills the run at `point`, and lets it go on to its end: that of `undisturbed`.
  static void KillTraining(const Config& config, const std::string& point, uint64_t hit,
                           const Config& undisturbed = Named("undisturbed")) {
    SCOPED_TRACE(point);
    const std::string armed = fmt::format("{}=exit@{}", point, hit);
    const Ended killed = Run(TrainCommand(config), armed);
    ASSERT_EQ(killed.code, kFailpointExit) << armed << "\n" << killed.err;
    const int failures = Failures();
    if (LongForm()) {
      const Ended resumed = Run(TrainCommand(config));
      ASSERT_EQ(resumed.code, 0) << armed << "\n" << resumed.err;
    } else {
      RunToTheEnd(config, /*resume=*/true);  // the same, without a process to start
    }
    ExpectSame(undisturbed, config);
    if (Failures() == failures) covered_->insert(point);
    fs::remove_all(config.run.dir);
  }
  // The same with a refresh of the codebook between the commits of steps 6 and 9.
  static Config WithRefresh(const std::string& name) {
    Config config = Named(name);
    config.refresh.at_step = 7;
    config.refresh.switch_after_steps = 1;
    config.refresh.cpu_share = 1;
    config.encoder.refreshable = true;
    config.refresh.encoder_steps = 3;
    config.refresh.distil_steps = 3;
    OpenGates(&config);
    config.refresh.min_preserved_r2 = -100;  // three steps of distillation
    return config;
  }

  static TempFolder* folder_;
  static Random* random_;
  static std::set<std::string>* covered_;
};
TempFolder* KillEachFailpoint::folder_ = nullptr;
Random* KillEachFailpoint::random_ = nullptr;
std::set<std::string>* KillEachFailpoint::covered_ = nullptr;

TEST_F(KillEachFailpoint, OfACommit) {
  // At the second commit of three, when there is one before it, and one to be deleted after it.
  // Small files that are replaced: a run's configuration and its result.
  for (const auto& [prefix, first, last] : std::vector<Points>{{"file.", 1, 2},
                                                               {"folder.", 2, 2},
                                                               {"commit.", 2, 2},
                                                               {"prune.", 2, 2},
                                                               {"shard.", 1, 5},
                                                               {"checkpoint.", 1, 5}}) {
    for (const std::string& point : PointsOf(prefix)) {
      KillTraining(Named("killed-" + point), point, first + random_->Below(last - first + 1));
    }
  }
}

// Slices of thousands of rows, which become table files of their own: of the content of many items.
TEST_F(KillEachFailpoint, OfACommitOfManyRows) {
  GenerateOptions world = SmallWorld();
  world.users = 80;
  world.items = 12'000;
  const fs::path folder = folder_->path() / "many";
  MakeRaw(folder, world);
  const auto named = [&](const std::string& name) {
    Config config = Named("many-" + name);
    config.data.raw = (folder / "raw").string();
    config.data.cache = (folder / "cache").string();
    return config;
  };
  RunToTheEnd(named("undisturbed"));
  for (const std::string& point : PointsOf("sorted.")) {
    KillTraining(named("killed-" + point), point, 1 + random_->Below(2), named("undisturbed"));
  }
}

TEST_F(KillEachFailpoint, OfACommitThatIsCopiedFromAnotherFileSystem) {
  const TempFolder elsewhere;  // the run is in memory
  for (const std::string& point : PointsOf("copy.")) {
    Config config = Named("killed-" + point);
    config.ps.live_dir = (elsewhere / point).string();
    KillTraining(config, point, 4);
  }
}

// Runs that were stopped, killed as they go on: with as many shards, and with others.
TEST_F(KillEachFailpoint, OfARestore) {
  Config stopped = Named("stopped");
  stopped.train.max_steps = kStop;
  RunToTheEnd(stopped);
  for (const std::string& point : PointsOf("restore.")) {
    const bool anew = std::set<std::string>{"restore.before_routing", "restore.before_notes",
                                            "restore.before_flush"}
                          .contains(point);
    Config config = Named("killed-" + point);
    if (anew) config.ps.shards = 3;
    fs::copy(stopped.run.dir, config.run.dir, fs::copy_options::recursive);
    KillTraining(config, point, 2);
  }
}

// A refresh of the codebook: before the commit of its switch the run goes on with the old version
// and does it again, and after it with the new one.
TEST_F(KillEachFailpoint, OfARefresh) {
  const Config undisturbed = WithRefresh("refreshed");
  RunToTheEnd(undisturbed);
  ASSERT_EQ(NewestCommit(fs::path(undisturbed.run.dir) / "commits")->manifest.codebook.version, 1u);
  for (const std::string& point : PointsOf("refresh.")) {
    if (point.find("rollback") != std::string::npos) continue;
    KillTraining(WithRefresh("killed-" + point), point, 1, undisturbed);
  }
  // While the commit of the switch is written, too.
  for (const char* point :
       {"commit.after_freeze", "commit.before_manifest", "commit.after_publish"}) {
    KillTraining(WithRefresh(std::string("switch-") + point), point, 3, undisturbed);
  }
}

// A rollback; asked for again it is done.
TEST_F(KillEachFailpoint, OfARollback) {
  const Config never = Named("undisturbed");
  for (const std::string& point : PointsOf("refresh.before_rollback")) {
    SCOPED_TRACE(point);
    const Config config = WithRefresh("killed-" + point);
    RunToTheEnd(config);
    const int failures = Failures();
    const std::vector<std::string> command = {"refresh", config.run.dir, "--rollback"};
    ASSERT_EQ(Run(command, point + "=exit").code, kFailpointExit);
    const Ended again = Run(command);
    ASSERT_EQ(again.code, 0) << again.err;
    const auto newest = NewestCommit(fs::path(config.run.dir) / "commits");
    ASSERT_TRUE(newest.ok()) << newest.status();
    EXPECT_EQ(newest->manifest.codebook.version, 0u);
    EXPECT_EQ(newest->manifest.step, 8);
    RunToTheEnd(config, /*resume=*/true);
    EXPECT_EQ(ResultOf(config), ResultOf(never));
    EXPECT_EQ(LearnedBy(config).dense, LearnedBy(never).dense);
    if (Failures() == failures) covered_->insert(point);
  }
}

// An export, of the second bundle in its folder; the first goes then. At every instant what
// `current` points to is whole.
TEST_F(KillEachFailpoint, OfABundle) {
  Config config = Named("exported");
  config.commit.keep = 10;
  RunToTheEnd(config);
  const fs::path commits = fs::path(config.run.dir) / "commits";
  const auto export_to = [&](const fs::path& out, int64_t step, const std::string& armed) {
    return Run({"export", CommitFolder(commits, step).string(), "--out", out.string(), "--keep",
                "1", "--golden", "3"},
               armed);
  };
  const auto current = [](const fs::path& out) {
    const auto name = CurrentBundle(out);
    EXPECT_TRUE(name.ok()) << name.status();
    const auto bundle = OpenBundle(out / name.value_or("none"), /*digests=*/true);
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    return bundle.ok() ? bundle->manifest.step : -1;
  };
  const fs::path first = folder_->path() / "first";
  ASSERT_EQ(export_to(first, kStop, "").code, 0);
  for (const std::string& point : PointsOf("bundle.")) {
    SCOPED_TRACE(point);
    const fs::path out = folder_->path() / ("out-" + point);
    fs::copy(first, out, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    const int failures = Failures();
    const Ended killed = export_to(out, kSteps, point + "=exit");
    ASSERT_EQ(killed.code, kFailpointExit) << killed.err;
    const int64_t seen = current(out);
    EXPECT_TRUE(seen == kStop || seen == kSteps) << seen;
    // The same command again; that the bundle is there, and current, is as good.
    const auto again =
        ExportBundle({.from = CommitFolder(commits, kSteps), .out = out, .golden = 3});
    EXPECT_TRUE(again.ok() || seen == kSteps) << again.status();
    EXPECT_TRUE(KeepNewestChains(out, 1).ok());
    for (const auto& entry : fs::directory_iterator(out)) {
      EXPECT_FALSE(entry.path().string().ends_with(kUnfinished)) << entry.path();
    }
    EXPECT_EQ(current(out), kSteps);
    if (Failures() == failures) covered_->insert(point);
  }
}

}  // namespace
}  // namespace savior
