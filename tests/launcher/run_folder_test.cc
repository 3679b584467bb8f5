#include "launcher/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "tests/common/temp_folder.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Config In(const fs::path& folder) {
  Config config;
  config.run.dir = (folder / "run").string();
  config.data.raw = "raw";
  config.data.train_from = "2020-01-01";
  return config;
}

// Leaves a run's folder behind, as a process that has ended does.
void RunOnce(const Config& config) {
  const auto folder = RunFolder::Open(config, /*resume=*/false);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_FALSE((*folder)->resumed());
}

TEST(RunFolder, IsMadeWithItsConfiguration) {
  const TempFolder folder;
  Config config = In(folder.path());
  config.run.dir = (folder.path() / "deep" / "er").string();
  config.train.dense_lr = 0.125;
  RunOnce(config);
  const auto resolved = LoadConfig((fs::path(config.run.dir) / "resolved.toml").string(), {});
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_TRUE(DifferentKeys(*resolved, config).empty());
}

TEST(RunFolder, KeepsTheLogOfAllItsProcessesAndNothingElse) {
  const TempFolder folder;
  const Config config = In(folder.path());
  {
    const auto opened = RunFolder::Open(config, /*resume=*/false);
    ASSERT_TRUE(opened.ok()) << opened.status();
    LOG(INFO) << "said by the first";
  }
  LOG(INFO) << "said between";
  {
    const auto opened = RunFolder::Open(config, /*resume=*/true);
    ASSERT_TRUE(opened.ok()) << opened.status();
    LOG(WARNING) << "said by the second";
  }
  const auto log = ReadFile(fs::path(config.run.dir) / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_THAT(*log, AllOf(HasSubstr("said by the first\n"), HasSubstr("said by the second\n"),
                          HasSubstr("run_folder_test.cc"), Not(HasSubstr("said between"))));
}

TEST(RunFolder, ASecondRunIsRefusedAndChangesNothing) {
  const TempFolder folder;
  Config config = In(folder.path());
  RunOnce(config);
  config.seed = 99;
  const absl::Status status = RunFolder::Open(config, /*resume=*/false).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr(config.run.dir), HasSubstr("--resume")));
  EXPECT_EQ(LoadConfig(config.run.dir + "/resolved.toml", {})->seed, 1);
}

TEST(RunFolder, ResumeOfAnEmptyFolderStartsARun) {
  const TempFolder folder;
  const auto opened = RunFolder::Open(In(folder.path()), /*resume=*/true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_FALSE((*opened)->resumed());
}

TEST(RunFolder, ResumeGoesOnWithTheSameConfiguration) {
  const TempFolder folder;
  RunOnce(In(folder.path()));
  const auto opened = RunFolder::Open(In(folder.path()), /*resume=*/true);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE((*opened)->resumed());
}

TEST(RunFolder, ResumeWithChangedKeysNamesAllOfThem) {
  const TempFolder folder;
  Config config = In(folder.path());
  RunOnce(config);
  config.seed = 2;
  config.train.table_lr = 0.5;
  config.model.arm = "base";
  config.data.train_from = "2020-01-02";
  config.ps.shards = 4;  // free to change: not named
  const absl::Status status = RunFolder::Open(config, /*resume=*/true).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("seed (1 | 2)"), HasSubstr("train.table_lr (0.1 | 0.5)"),
                    HasSubstr("model.arm"), HasSubstr("data.train_from"), Not(HasSubstr("ps."))));
  EXPECT_EQ(LoadConfig(config.run.dir + "/resolved.toml", {})->seed, 1);
}

TEST(RunFolder, KeysThatChangeNoStepMayDiffer) {
  const TempFolder folder;
  Config config = In(folder.path());
  RunOnce(config);
  config.data.raw = "moved/raw";
  config.data.cache = "cache";
  config.data.prepare_memory_mb = 64;
  config.data.eval_from = "2020-02-01";
  config.data.eval_until = "2020-03-01";
  config.train.max_steps = 10;
  config.train.epochs = 3;
  config.train.metrics_every_s = 1;
  config.ps.shards = 3;
  config.ps.ram_budget_mb = 8;
  config.ps.timeout_s = 5;
  config.cluster.workers = 2;
  config.cluster.device = "cpu";
  config.commit.every_steps = 7;
  config.commit.keep = 1;
  config.eval.requests_per_batch = 32;
  config.eval.save_predictions = true;
  config.eval.buckets["new"] = "age_days <= 28";
  const auto opened = RunFolder::Open(config, /*resume=*/true);
  EXPECT_TRUE(opened.ok()) << opened.status();
}

// Every other key decides what a step does: changing any of them is refused.
TEST(RunFolder, KeysThatChangeAStepMayNotDiffer) {
  const TempFolder folder;
  RunOnce(In(folder.path()));
  Config config = In(folder.path());
  int64_t refused = 0;
  for (const ConfigField& field : ConfigFields(config)) {
    const bool decides = field.key == "seed" || field.key.starts_with("model.") ||
                         field.key.starts_with("encoder.") || field.key.starts_with("codebook.");
    if (!decides) continue;
    const auto change = [](auto* value) {
      using T = std::remove_pointer_t<decltype(value)>;
      if constexpr (std::is_same_v<T, bool>) {
        *value = !*value;
      } else if constexpr (std::is_arithmetic_v<T>) {
        *value += 1;
      } else if constexpr (std::is_same_v<T, std::string>) {
        *value += "x";
      }
    };
    const Config before = config;
    std::visit(change, field.value);
    const absl::Status status = RunFolder::Open(config, /*resume=*/true).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << field.key << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr(field.key));
    config = before;  // the fields point into `config`
    ++refused;
  }
  EXPECT_GT(refused, 30);
}

TEST(RunFolder, IsOneProcessAtATime) {
  const TempFolder folder;
  const Config config = In(folder.path());
  auto first = RunFolder::Open(config, /*resume=*/false);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = RunFolder::Open(config, /*resume=*/true).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  EXPECT_THAT(second.message(), HasSubstr("locked by process " + std::to_string(::getpid())));
  first->reset();
  EXPECT_TRUE(RunFolder::Open(config, /*resume=*/true).ok());
}

// A plain file in the way: permissions would not stop root.
TEST(RunFolder, AFolderThatCannotBeWrittenIsNamed) {
  const TempFolder folder;
  std::ofstream(folder / "file") << "not a folder";
  Config config = In(folder.path());
  config.run.dir = (folder / "file" / "run").string();
  const absl::Status status = RunFolder::Open(config, /*resume=*/false).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr(config.run.dir));
}

TEST(RunFolder, MetricsAreALineEach) {
  const TempFolder folder;
  const auto opened = RunFolder::Open(In(folder.path()), /*resume=*/false);
  ASSERT_TRUE(opened.ok()) << opened.status();
  for (int step = 0; step < 3; ++step) {
    ASSERT_TRUE((*opened)->metrics().Add({{"step", step}, {"loss", 0.5}}).ok());
  }
  std::ifstream lines((*opened)->path() / "metrics.jsonl");
  int64_t step = 0;
  for (std::string line; std::getline(lines, line); ++step) {
    EXPECT_EQ(nlohmann::json::parse(line).at("step"), step);
  }
  EXPECT_EQ(step, 3);
}

}  // namespace
}  // namespace savior
