// The whole way, from raw data to figures: what is planted is found, what is scored is what was
// trained.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "launcher/commit.h"
#include "launcher/logs.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "worker/data/generate_truth.h"
#include "worker/eval/metrics.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

const Cell& CellOf(const BucketCells& cells, const std::string& bucket) {
  for (const auto& [name, cell] : cells) {
    if (name == bucket) return cell;
  }
  ADD_FAILURE() << "no bucket " << bucket;
  return cells.front().second;
}

class EndToEnd : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path());
    const auto result = TrainQuietly(Trained());
    ASSERT_TRUE(result.ok()) << result.status();
    result_ = new EvalResult(*result);
  }
  static void TearDownTestSuite() {
    delete folder_;
    delete result_;
  }
  static Config Trained() { return SmallRun(folder_->path(), "trained"); }

  static TempFolder* folder_;
  static EvalResult* result_;  // of Trained()
};
TempFolder* EndToEnd::folder_ = nullptr;
EvalResult* EndToEnd::result_ = nullptr;

TEST_F(EndToEnd, TheRunFolderHoldsWhatItPromises) {
  const fs::path run = Trained().run.dir;
  for (const char* name : {"resolved.toml", "metrics.jsonl", "result.json", "commits"}) {
    EXPECT_TRUE(fs::exists(run / name)) << name;
  }
  const auto json = nlohmann::json::parse(ReadFile(run / "result.json").value());
  EXPECT_EQ(json.at("dataset"), "raw");
  EXPECT_EQ(json.at("arm"), "savior");
  EXPECT_EQ(json.at("seed"), 1);
  for (const char* task : {"ctr", "ctcvr"}) {
    for (const char* bucket : {"all", "new"}) {
      for (const char* figure : {"auc", "gauc", "logloss", "ne", "pcoc", "ece", "n", "positives"}) {
        EXPECT_TRUE(json.at("eval").at(task).at(bucket).at(figure).is_number())
            << task << " " << bucket << " " << figure;
      }
    }
  }
  for (const char* figure : {"samples", "wall_s", "cpu_s", "samples_per_cpu_s", "peak_rss_bytes"}) {
    EXPECT_GT(json.at("train").at(figure).get<double>(), 0) << figure;
  }
}

TEST_F(EndToEnd, EvaluatingTheCommitGivesTheTrainingsOwnFigures) {
  const Learned before = LearnedBy(Trained());
  std::ostringstream out;
  const auto by_run = EvaluateRun(Trained().run.dir, "", {}, out);
  ASSERT_TRUE(by_run.ok()) << by_run.status();
  EXPECT_TRUE(*by_run == *result_);
  EXPECT_THAT(out.str(), HasSubstr("AUC"));
  const auto newest = NewestCommit(fs::path(Trained().run.dir) / "commits");
  const auto by_commit = EvaluateRun("", newest->folder.string(), {"ps.shards=3"}, out);
  ASSERT_TRUE(by_commit.ok()) << by_commit.status();
  EXPECT_TRUE(*by_commit == *result_);
  EXPECT_TRUE(LearnedBy(Trained()) == before);  // it left no trace
}

TEST_F(EndToEnd, EvaluatingAnotherPeriodCountsItsRows) {
  std::ostringstream out;
  const auto shorter = EvaluateRun(Trained().run.dir, "", {"data.eval_until=2023-11-27"}, out);
  ASSERT_TRUE(shorter.ok()) << shorter.status();
  EXPECT_GT(shorter->ctr[0].second.n, 0);
  EXPECT_LT(shorter->ctr[0].second.n, result_->ctr[0].second.n);
  const absl::Status nowhere = EvaluateRun((*folder_ / "no-run").string(), "", {}, out).status();
  EXPECT_TRUE(absl::IsNotFound(nowhere)) << nowhere;
}

TEST_F(EndToEnd, EveryArmTrains) {
  for (const char* arm : {"base", "generic_content", "saviorenc", "sid", "mba", "mba_off",
                          "shuffled_sid", "free_content"}) {
    for (const char* alignment : {"codes", "hybrid"}) {
      Config config = SmallRun(folder_->path(), std::string(arm) + "-" + alignment);
      config.model.arm = arm;
      config.model.alignment = alignment;
      config.train.max_steps = 3;
      const auto result = TrainQuietly(config);
      ASSERT_TRUE(result.ok()) << arm << ": " << result.status();
      EXPECT_EQ(result->ctr[0].second.n, result_->ctr[0].second.n);
      std::ostringstream out;
      const auto again = EvaluateRun(config.run.dir, "", {}, out);
      ASSERT_TRUE(again.ok()) << arm << ": " << again.status();
      EXPECT_TRUE(*again == *result) << arm;
    }
  }
}

TEST_F(EndToEnd, ADryRunSaysWhatTheRunWouldBeAndLeavesNothing) {
  const Config config = SmallRun(folder_->path(), "dry");
  std::ostringstream out;
  ASSERT_TRUE(DryRun(config, out).ok());
  EXPECT_THAT(out.str(),
              AllOf(HasSubstr("200 users, 300 items"), HasSubstr("nothing was trained")));
  EXPECT_FALSE(fs::exists(config.run.dir));
}

TEST_F(EndToEnd, CheckEncoderNamesTheBetterOfBoth) {
  const TempFolder folder;
  GenerateOptions options = SmallWorld();
  options.days = 18;
  options.requests_per_user_day = 0.2;
  MakeRaw(folder.path(), options);
  Config config = SmallRun(folder.path(), "check");
  config.data.train_until = config.data.eval_from = "2023-12-02";
  config.data.eval_until = "2023-12-03";
  config.data.train_from = "2023-11-20";
  std::ostringstream out;
  const absl::Status tooShort = CheckEncoder(config, {}, out);
  EXPECT_TRUE(absl::IsInvalidArgument(tooShort)) << tooShort;
  config.data.train_from = "2023-11-15";
  const absl::Status checked = CheckEncoder(config, {}, out);
  ASSERT_TRUE(checked.ok()) << checked;
  EXPECT_THAT(out.str(), HasSubstr("Use encoder.kind = \""));
}

// What is planted: an item's click rate follows its content cluster and the user's favourites, so a
// new item can be ranked by content and history alone. A world large enough that all margins below
// are many times the noise.
class PlantedTruthIsFound : public ::testing::Test {
 protected:
  static GenerateOptions World() {
    GenerateOptions options;
    options.users = 1500;
    options.items = 2000;
    options.days = 28;
    options.clusters = 40;
    options.vector_dim = 32;
    options.arrivals = 0.5;
    return options;
  }

  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path(), World());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Arm(const std::string& arm) {
    Config config = SmallRun(folder_->path(), arm);
    config.data.train_until = config.data.eval_from = "2023-12-08";
    config.data.eval_until = "2023-12-13";
    config.encoder.steps = 100;
    config.codebook.codes = 48;
    config.codebook.finetune_steps = 100;
    config.model.arm = arm;
    config.model.alignment = "codes";
    config.model.id_dim = 16;
    config.model.feature_dim = 8;
    config.model.dnn = "32";
    config.model.id_dropout = 0;
    config.train.requests_per_batch = 64;
    config.train.shuffle_window = 2048;
    return config;
  }

  // In points, on items listed within a week of the request.
  static double AucOnNewItems(const Config& config) {
    const auto result = TrainQuietly(config);
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return 0;
    const Cell& cell = CellOf(result->ctr, "new");
    EXPECT_GT(cell.positives, 3000);
    const double auc = 100 * cell.auc.value_or(0);
    RecordProperty(config.model.arm, std::to_string(auc));
    std::cout << config.model.arm << ": AUC on new items " << auc << "\n";
    return auc;
  }

  // Of the true click probabilities: what nobody can beat but by luck.
  static double OracleAucOnNewItems() {
    const Config config = Arm("savior");
    const PlantedTruth truth(World());
    const auto log = OpenOrPrepare(config).value();
    const Period period = PeriodsOf(config)->evaluation;
    std::vector<float> p, clicks;
    for (size_t d = 0; d < log->days().size(); ++d) {
      const DayLog day = log->ReadDay(d).value();
      for (size_t r = 0; r < day.timestamps.size(); ++r) {
        const int64_t now = day.timestamps[r];
        if (now < period.from || now >= period.until) continue;
        const int64_t user =
            (log->user_ids()[static_cast<size_t>(day.users[r])] - truth.user_id(0)) /
            (truth.user_id(1) - truth.user_id(0));
        for (auto n = static_cast<size_t>(day.row_begin[r]);
             n < static_cast<size_t>(day.row_begin[r + 1]); ++n) {
          const auto number = static_cast<size_t>(day.items[n]);
          if (now - log->listed_at()[number] > 7 * kDaySeconds) continue;
          const int64_t item =
              (log->item_ids()[number] - truth.item_id(0)) / (truth.item_id(1) - truth.item_id(0));
          p.push_back(static_cast<float>(truth.ClickProbability(user, item)));
          clicks.push_back(day.clicks[n]);
        }
      }
    }
    return 100 * Auc(p, clicks).value_or(0);
  }

  static TempFolder* folder_;
};
TempFolder* PlantedTruthIsFound::folder_ = nullptr;

TEST_F(PlantedTruthIsFound, ByContentAndCodesAndNotByTheShuffledControl) {
  const double oracle = OracleAucOnNewItems();
  const double base = AucOnNewItems(Arm("base"));
  const double no_codes = AucOnNewItems(Arm("mba_off"));
  const double savior = AucOnNewItems(Arm("savior"));
  const double shuffled = AucOnNewItems(Arm("shuffled_sid"));
  std::cout << "oracle: " << oracle << "\n";
  EXPECT_LT(savior, oracle + 0.5);  // above it something of the future is leaking
  // Content in the attentions recovers half of what IDs and side features leave open.
  EXPECT_GT(savior - base, 0.5 * (oracle - base));
  // Codes carry meaning beyond content in the attentions; the same codes on other items do not.
  EXPECT_GT(savior - no_codes, 1.0);
  EXPECT_GT(savior - shuffled, 1.0);
  EXPECT_LT(shuffled - no_codes, 0.5);
}

}  // namespace
}  // namespace savior
