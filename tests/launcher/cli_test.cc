// The program as a person meets it: what it prints and how it ends, bad input above all.

#include <absl/strings/str_split.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "launcher/commit.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/process.h"
#include "tests/launcher/small_run.h"
#include "tests/worker/data/raw_tables.h"
#include "worker/device.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const fs::path kSource = SAVIOR_SOURCE;  // the repository

class Cli : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    data_ = new TempFolder;
    MakeRaw(data_->path());
  }
  static void TearDownTestSuite() { delete data_; }

  static std::vector<std::string> Command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), SAVIOR_PROGRAM);
    return arguments;
  }
  Ended Savior(const std::vector<std::string>& arguments) const {
    return ChildProcess(Command(arguments), folder_.path()).Wait();
  }

  // Writes the configuration of a small run to <test's folder>/<name>.toml.
  std::string Write(const Config& config, const std::string& name = "run") const {
    const fs::path path = folder_ / (name + ".toml");
    std::ofstream(path) << ToToml(config);
    return path.string();
  }
  Config Small(const std::string& name = "run") const {
    Config config = SmallRun(data_->path(), name);
    config.run.dir = (folder_ / name).string();
    return config;
  }

  // Lines of metrics.jsonl: steps done, where there is one per step.
  static int64_t Lines(const Config& config) {
    std::ifstream metrics(fs::path(config.run.dir) / "metrics.jsonl");
    return std::count(std::istreambuf_iterator<char>(metrics), {}, '\n');
  }
  static void WaitForLines(const Config& config, int64_t lines) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (Lines(config) < lines && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_GE(Lines(config), lines);
  }

  static TempFolder* data_;
  const TempFolder folder_;
};
TempFolder* Cli::data_ = nullptr;

TEST_F(Cli, HelpHasExamplesForEveryCommand) {
  const Ended all = Savior({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const char* command :
       {"prepare", "train", "launch", "slurm", "evaluate", "report", "inspect", "generate"}) {
    EXPECT_THAT(all.out, HasSubstr(command));
    const Ended one = Savior({command, "--help"});
    EXPECT_EQ(one.code, 0) << command;
    EXPECT_THAT(one.out, AllOf(HasSubstr("Example"), HasSubstr(std::string("savior ") + command)));
  }
}

TEST_F(Cli, VersionIsPrinted) {
  const Ended ended = Savior({"--version"});
  EXPECT_EQ(ended.code, 0);
  EXPECT_THAT(ended.out, StartsWith("savior 0."));
}

TEST_F(Cli, AWrongCommandLineEndsWithTwo) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"trian"},
                                             {"train", "--resum"},
                                             {"evaluate"},
                                             {"launch"},
                                             {"launch", "x.toml", "--np", "0"},
                                             {"report"},
                                             {"inspect"},
                                             {"generate"},
                                             {"inspect", "table"},
                                             {"inspect", "table", "x", "--key", "abc"}}) {
    const Ended ended = Savior(arguments);
    EXPECT_EQ(ended.code, 2) << ended.err;
    EXPECT_FALSE(ended.err.empty());
  }
}

TEST_F(Cli, BadConfigurationIsNamed) {
  const std::string config = Write(Small());
  const auto refusal = [&](const std::string& override) {
    const Ended ended = Savior({"train", config, override});
    EXPECT_EQ(ended.code, 2);
    EXPECT_THAT(ended.err, StartsWith("savior: "));
    return ended.err;
  };
  EXPECT_THAT(refusal("train.dense_rl=1"), HasSubstr("nearest is train.dense_lr"));
  EXPECT_THAT(refusal("train.dense_lr=-1"), HasSubstr("must be > 0"));
  EXPECT_THAT(refusal("model.arm=saviour"), HasSubstr("nearest is \"savior\""));
  EXPECT_THAT(refusal("data.train_from=soon"), HasSubstr("data.train_from"));
  EXPECT_THAT(refusal("data.train_from="), HasSubstr("data.train_from is not set"));
  EXPECT_THAT(refusal("data.raw="), HasSubstr("data.raw is not set"));
  EXPECT_THAT(refusal("eval.buckets.new=age_dais <= 5"), HasSubstr("age_da"));
  if (!FindGpus().ok()) {
    EXPECT_THAT(refusal("cluster.device=cuda"), HasSubstr("cluster.device = \"cuda\": "));
  }
  EXPECT_FALSE(fs::exists(folder_ / "run"));
  const Ended missing = Savior({"train", "no/such.toml"});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, HasSubstr("no/such.toml: no such configuration file"));
}

TEST_F(Cli, MissingDataIsNamed) {
  Config config = Small();
  config.data.raw = (folder_ / "no-data").string();
  const Ended folder = Savior({"train", Write(config)});
  EXPECT_EQ(folder.code, 2);
  EXPECT_THAT(folder.err, HasSubstr("no-data"));
  fs::copy(*data_ / "raw", folder_ / "part", fs::copy_options::recursive);
  fs::remove_all(folder_ / "part" / "items");
  config.data.raw = (folder_ / "part").string();
  const Ended table = Savior({"train", Write(config)});
  EXPECT_EQ(table.code, 2);
  EXPECT_THAT(table.err, HasSubstr("items"));
}

TEST_F(Cli, AWrongSchemaNamesFileRowAndColumn) {
  auto tables = testing::TinyRaw().Tables();
  tables["impressions"].Set("item_id", testing::Ints({102, 100, 101, 777, 100}));
  testing::WriteTables(tables, folder_ / "raw");
  Config config = Small();
  config.data.raw = (folder_ / "raw").string();
  const Ended unknown = Savior({"train", Write(config)});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("impressions.parquet"), HasSubstr("row 3"),
                                 HasSubstr("item_id"), HasSubstr("777")));
  tables["impressions"].Drop("click");
  testing::WriteTables(tables, folder_ / "raw");
  const Ended missing = Savior({"prepare", config.data.raw, "--out", (folder_ / "log").string()});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, AllOf(HasSubstr("impressions.parquet"), HasSubstr("click")));
  EXPECT_FALSE(fs::exists(folder_ / "log"));
}

TEST_F(Cli, ARunFolderIsUsedOnceOrResumed) {
  Config config = Small();
  config.train.max_steps = 3;
  const std::string path = Write(config);
  const Ended first = Savior({"train", path});
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, AllOf(HasSubstr("AUC"), HasSubstr("result.json")));
  const Ended second = Savior({"train", path});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, HasSubstr("holds a run already: go on with --resume"));
  const Ended other = Savior({"train", path, "seed=2", "--resume"});
  EXPECT_EQ(other.code, 1);
  EXPECT_THAT(other.err, HasSubstr("seed (1 | 2)"));
  const Ended resumed = Savior({"train", path, "--resume"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  const Ended evaluated = Savior({"evaluate", config.run.dir});
  EXPECT_EQ(evaluated.code, 0) << evaluated.err;
  EXPECT_EQ(first.out.substr(0, first.out.find("AUC and GAUC")),
            evaluated.out.substr(0, evaluated.out.find("AUC and GAUC")));
  EXPECT_EQ(Savior({"inspect", "commit", config.run.dir, "--verify"}).code, 0);
  EXPECT_EQ(Savior({"inspect", "table", config.run.dir, "usr"}).code, 2);
}

TEST_F(Cli, AnUnwritableRunFolderIsNamed) {
  std::ofstream(folder_ / "file") << "in the way";
  Config config = Small();
  config.run.dir = (folder_ / "file" / "run").string();
  const Ended ended = Savior({"train", Write(config)});
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.err, HasSubstr("cannot be written to"));
}

TEST_F(Cli, ADryRunTrainsNothing) {
  const Ended ended = Savior({"train", Write(Small()), "--dry-run"});
  EXPECT_EQ(ended.code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("nothing was trained"));
  EXPECT_FALSE(fs::exists(folder_ / "run"));
}

TEST_F(Cli, InterruptCommitsAndSaysHowToGoOn) {
  Config config = Small();
  config.train.epochs = 1000;  // so that it does not end by itself
  config.train.metrics_every_s = 1e-6;
  for (const int signal : {SIGINT, SIGTERM}) {
    config.run.dir = (folder_ / std::to_string(signal)).string();
    ChildProcess training(Command({"train", Write(config)}), folder_.path());
    WaitForLines(config, 5);
    training.Signal(signal);
    const Ended ended = training.Wait();
    EXPECT_EQ(ended.code, 130) << ended.err;
    const std::string command = "savior train " + config.run.dir + "/resolved.toml --resume";
    ASSERT_THAT(ended.err, HasSubstr("Go on with: " + command));
    const auto commit = NewestCommit(fs::path(config.run.dir) / "commits");
    ASSERT_TRUE(commit.ok()) << commit.status();
    EXPECT_GE(commit->manifest.step, 5);
    // As it was told, with an end.
    std::vector<std::string> words = absl::StrSplit(command, ' ');
    words.erase(words.begin());
    words.push_back("train.max_steps=" + std::to_string(commit->manifest.step + 5));
    const Ended resumed = Savior(words);
    EXPECT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_THAT(resumed.err, HasSubstr("going on from"));
  }
}

TEST_F(Cli, InterruptBeforeTheFirstStepEndsAtOnceAndLosesNothing) {
  Config config = Small();
  config.encoder.steps = 10'000'000;  // never gets to the ranker
  ChildProcess training(Command({"train", Write(config)}), folder_.path());
  const fs::path resolved = fs::path(config.run.dir) / "resolved.toml";
  const auto deadline = SteadyClock::now() + std::chrono::seconds(60);
  while (!fs::exists(resolved) && SteadyClock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(fs::exists(resolved));
  training.Signal(SIGINT);
  EXPECT_EQ(training.Wait().code, -SIGINT);
  // Nothing was committed, so going on means starting again; another encoder is another run.
  EXPECT_TRUE(fs::is_empty(fs::path(config.run.dir) / "commits"));
  EXPECT_THAT(Savior({"train", Write(config), "--resume", "encoder.steps=5"}).err,
              HasSubstr("encoder.steps"));
}

// At any instant: between two commits, and while one is written.
TEST_F(Cli, KilledRunsResumeBitIdentically) {
  Config whole = Small("whole");
  whole.train.epochs = 3;
  ASSERT_EQ(Savior({"train", Write(whole)}).code, 0);
  Config killed = whole;
  killed.run.dir = (folder_ / "killed").string();
  killed.train.metrics_every_s = 1e-6;
  killed.commit.every_steps = 4;
  int64_t lines = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    ChildProcess training(Command({"train", Write(killed), "--resume"}), folder_.path());
    WaitForLines(killed, lines + 7 + attempt);
    training.Signal(SIGKILL);
    EXPECT_EQ(training.Wait().code, -SIGKILL);
    lines = Lines(killed);
  }
  const Ended last = Savior({"train", Write(killed), "--resume"});
  ASSERT_EQ(last.code, 0) << last.err;
  ExpectSame(whole, killed);
}

// On a file system of its own, too small for the prepared log.
TEST_F(Cli, AFullDiskDuringPrepareIsNamedAndLeavesNothingHalf) {
  const fs::path disk = folder_ / "disk";
  fs::create_directories(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=256k") != 0) {
    GTEST_SKIP() << "NOT TESTED: mounting a tmpfs is not permitted here: " << std::strerror(errno);
  }
  Config config = Small();
  config.data.cache = (disk / "cache").string();
  const Ended full = Savior({"train", Write(config)});
  std::vector<fs::path> whole;
  for (const auto& entry : fs::recursive_directory_iterator(disk)) {
    if (entry.path().filename() == "manifest.json") whole.push_back(entry.path());
  }
  ASSERT_EQ(::mount("tmpfs", disk.c_str(), "tmpfs", MS_REMOUNT, "size=64m"), 0);
  config.train.max_steps = 2;
  const Ended again = Savior({"train", Write(config)});
  EXPECT_EQ(::umount2(disk.c_str(), MNT_DETACH), 0);
  EXPECT_EQ(full.code, 1) << full.err;
  EXPECT_THAT(full.err, AllOf(HasSubstr("No space left"), HasSubstr(disk.string())));
  EXPECT_TRUE(whole.empty()) << whole.front();
  EXPECT_EQ(again.code, 0) << again.err;  // with room, as if nothing had been
}

TEST_F(Cli, TheConfigurationPageIsNotStale) {
  const Ended ended = Savior({"train", "--print-configuration-page"});
  EXPECT_EQ(ended.code, 0);
  const auto page = ReadFile(kSource / "docs" / "configuration.md");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_TRUE(ended.out == *page)
      << "docs/configuration.md is stale: savior train --print-configuration-page > "
         "docs/configuration.md";
}

TEST_F(Cli, EveryShippedConfigurationLoads) {
  int64_t count = 0;
  for (const auto& entry : fs::directory_iterator(kSource / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    // Data is missing here: what is refused must be that, not a key.
    const auto config = LoadConfig(entry.path().string(), {});
    EXPECT_TRUE(config.ok()) << config.status();
    EXPECT_THAT(std::string(entry.path().stem()), Not(HasSubstr(" ")));
    ++count;
  }
  EXPECT_GE(count, 4);
}

}  // namespace
}  // namespace savior
