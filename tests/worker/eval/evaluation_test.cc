#include "worker/eval/evaluation.h"

#include <arrow/api.h>
#include <arrow/io/api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <parquet/arrow/reader.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <sstream>

#include "common/random.h"
#include "tests/worker/eval/small_log.h"

namespace savior {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// Four items; 0 and 1 listed on day 0, 2 and 3 on day 100.
FakeLog MakeLog(bool has_conversion = true) {
  FakeLog log;
  log.mutable_schema()->has_conversion = has_conversion;
  AddItems({0, 0, 100 * kDay, 100 * kDay}, {0, 1, 2, -1}, &log);
  AddDay({{0, {0, 1}}}, &log);
  log.AddBehaviour(/*user=*/2, /*item=*/0, 50 * kDay);  // hence users 0 to 2
  return log;
}

// No rows, hence no metrics and too few positives.
const Cell kEmptyCell = [] {
  Cell cell;
  cell.flagged = true;
  return cell;
}();

// Two requests of users 2 and 0 on day 101.
Predictions MakePredictions() {
  Batch batch;
  batch.request_ids = {70, 71};
  batch.users = {2, 0};
  batch.timestamps = {101 * kDay, 101 * kDay + 1};
  batch.row_offsets = {0, 4, 6};
  batch.items = {0, 1, 2, 3, 0, 2};
  batch.clicks = {1, 0, 1, 0, 0, 1};
  batch.conversions = {1, 0, 0, 0, 0, 1};
  batch.weights = {1, 2, 3, 4, 5, 6};
  batch.prior_counts = {9, 8, 0, 0, 9, 1};
  Predictions predictions;
  predictions.Append(batch, std::vector<float>{.9f, .1f, .3f, .4f, .2f, .8f},
                     std::vector<float>{.8f, .05f, .1f, .2f, .1f, .6f});
  return predictions;
}

std::vector<Bucket> MakeBuckets() {
  const std::vector<BucketSpec> specs = {{"new", "age_days <= 56"}, {"none", "prior_count < 0"}};
  return ParseBuckets(specs).value();
}

ItemFacts MakeFacts(const TrainingLog& log) { return ScanTraining(log, {0, kDay}).value(); }

EvalResult EvaluateSmall(const FakeLog& log, const Predictions& predictions) {
  return Evaluate(log, predictions, MakeBuckets(), MakeFacts(log)).value();
}

TEST(Predictions, AppendExpandsRequestsToRows) {
  const Predictions p = MakePredictions();
  EXPECT_EQ(p.rows(), 6);
  EXPECT_THAT(p.users, ElementsAre(2, 2, 2, 2, 0, 0));
  EXPECT_THAT(p.request_ids, ElementsAre(70, 70, 70, 70, 71, 71));
  EXPECT_EQ(p.timestamps[4], 101 * kDay + 1);
}

TEST(Evaluate, FillsCellsOfBothTasks) {
  const EvalResult result = EvaluateSmall(MakeLog(), MakePredictions());
  ASSERT_EQ(result.ctr.size(), 3u);
  ASSERT_EQ(result.ctcvr.size(), 3u);
  EXPECT_EQ(result.ctr[0].first, "all");
  const Cell& all = result.ctr[0].second;
  EXPECT_DOUBLE_EQ(all.auc.value(), 8.0 / 9);  // .3 lies below .4
  EXPECT_DOUBLE_EQ(all.gauc.value(), (0.75 * 4 + 1.0 * 2) / 6);
  EXPECT_DOUBLE_EQ(all.gauc_coverage, 1.0);
  EXPECT_EQ(all.n, 6);
  EXPECT_EQ(all.positives, 3);
  EXPECT_TRUE(all.flagged);
  const Cell& fresh = result.ctr[1].second;  // items 2 and 3: clicks .3, .8 against .4
  EXPECT_EQ(fresh.n, 3);
  EXPECT_DOUBLE_EQ(fresh.auc.value(), 0.5);
  EXPECT_DOUBLE_EQ(fresh.gauc_coverage, 2.0 / 3);
  EXPECT_EQ(result.ctcvr[0].second.positives, 2);
  EXPECT_DOUBLE_EQ(result.ctcvr[0].second.auc.value(), 1.0);
}

TEST(Evaluate, LabelOfCtcvrNeedsTheClick) {
  Predictions p = MakePredictions();
  p.conversions[1] = 1;  // without a click
  EXPECT_EQ(EvaluateSmall(MakeLog(), p).ctcvr[0].second.positives, 2);
}

TEST(Evaluate, EmptyBucketAndEmptyPeriodHaveNoMetrics) {
  const EvalResult result = EvaluateSmall(MakeLog(), MakePredictions());
  EXPECT_EQ(result.ctr[2].second, kEmptyCell);
  const EvalResult nothing = EvaluateSmall(MakeLog(), Predictions());
  EXPECT_EQ(nothing.ctr[0].second, kEmptyCell);
}

TEST(Evaluate, OmitsCtcvrIfTheLogHasNoConversions) {
  const EvalResult result = EvaluateSmall(MakeLog(/*has_conversion=*/false), MakePredictions());
  EXPECT_TRUE(result.ctcvr.empty());
  EXPECT_FALSE(ToJson(result).contains("ctcvr"));
  std::ostringstream table;
  PrintTable(result, table);
  EXPECT_THAT(table.str(), Not(HasSubstr("CTCVR")));
}

TEST(Evaluate, RefusesWhatIsNoProbability) {
  const FakeLog log = MakeLog();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), 1.5f, -0.1f}) {
    Predictions p = MakePredictions();
    p.p_ctcvr[2] = bad;
    const absl::Status status = Evaluate(log, p, MakeBuckets(), MakeFacts(log)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("p_ctcvr of row 2"));
  }
}

TEST(ToJson, IsNullWhereUndefinedAndKeepsTheOrder) {
  const std::string text = ToJson(EvaluateSmall(MakeLog(), MakePredictions())).dump();
  EXPECT_THAT(text, testing::StartsWith(R"({"ctr":{"all":{"auc":0.888)"));
  EXPECT_THAT(text,
              HasSubstr(R"("none":{"auc":null,"gauc":null,"gauc_coverage":0.0,"logloss":null,)"
                        R"("ne":null,"pcoc":null,"ece":null,"n":0,"positives":0,"flagged":true})"));
  EXPECT_EQ(text, ToJson(EvaluateSmall(MakeLog(), MakePredictions())).dump());
}

TEST(PrintTable, AlignsColumnsAndMarksFlaggedCells) {
  Predictions p;
  Random random(1);
  for (int i = 0; i < 1000; ++i) {
    p.users.push_back(i % 3);
    p.request_ids.push_back(i);
    p.items.push_back(i < 990 ? 0 : 2);
    p.timestamps.push_back(101 * kDay);
    p.clicks.push_back(i % 2 == 0 ? 1.0f : 0.0f);
    p.conversions.push_back(i % 10 == 0 ? 1.0f : 0.0f);
    p.weights.push_back(1);
    p.prior_counts.push_back(0);
    p.p_ctr.push_back(static_cast<float>(random.Uniform()));
    p.p_ctcvr.push_back(static_cast<float>(random.Uniform()));
  }
  std::ostringstream out;
  PrintTable(EvaluateSmall(MakeLog(), p), out);
  std::vector<std::string> lines;
  std::istringstream in(out.str());
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 7u) << out.str();
  for (size_t i = 1; i < 5; ++i) EXPECT_EQ(lines[i].size(), lines[0].size()) << out.str();
  EXPECT_THAT(lines[0], testing::AllOf(HasSubstr(" CTR "), HasSubstr(" CTCVR ")));
  EXPECT_THAT(lines[1], HasSubstr("logloss"));
  EXPECT_EQ(std::count(lines[2].begin(), lines[2].end(), '*'), 1) << "CTCVR has 100 positives";
  EXPECT_EQ(std::count(lines[3].begin(), lines[3].end(), '*'), 2);
  EXPECT_THAT(lines[6], HasSubstr("fewer than 200 positives"));
}

class PredictionsFile : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) / (std::string("savior_") + test->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path path() const { return folder_ / "predictions.parquet"; }
  absl::Status Save(const FakeLog& log, const Predictions& predictions) const {
    return SavePredictions(path(), log, predictions, MakeBuckets(), MakeFacts(log));
  }

  std::filesystem::path folder_;
};

TEST_F(PredictionsFile, LoadGivesBackWhatWasSaved) {
  const FakeLog log = MakeLog();
  const Predictions saved = MakePredictions();
  ASSERT_TRUE(Save(log, saved).ok());
  ASSERT_TRUE(Save(log, saved).ok()) << "replaces a file that is there";
  const absl::StatusOr<Predictions> loaded = LoadPredictions(path(), log);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->users, saved.users);
  EXPECT_EQ(loaded->items, saved.items);
  EXPECT_EQ(loaded->weights, saved.weights);
  EXPECT_EQ(EvaluateSmall(log, *loaded), EvaluateSmall(log, saved));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1) << "no leftovers";
}

TEST_F(PredictionsFile, HoldsIdsAndBucketColumns) {
  ASSERT_TRUE(Save(MakeLog(), MakePredictions()).ok());
  auto file = arrow::io::ReadableFile::Open(path().string()).ValueOrDie();
  auto reader = parquet::arrow::OpenFile(file, arrow::default_memory_pool()).ValueOrDie();
  const std::shared_ptr<arrow::Table> table = reader->ReadTable().ValueOrDie();
  EXPECT_THAT(
      table->ColumnNames(),
      ElementsAre("user_id", "request_id", "item_id", "timestamp", "prior_count", "weight", "click",
                  "p_ctr", "conversion", "p_ctcvr", "in_all", "in_new", "in_none"));
  const auto at = [&](const std::string& name, int64_t row) {
    return table->GetColumnByName(name)->GetScalar(row).ValueOrDie()->ToString();
  };
  EXPECT_EQ(at("user_id", 0), "3");
  EXPECT_EQ(at("item_id", 3), "1003");
  EXPECT_EQ(at("in_new", 1), "false");
  EXPECT_EQ(at("in_new", 2), "true");
}

TEST_F(PredictionsFile, LogWithoutConversionsHasNoConversionColumns) {
  const FakeLog log = MakeLog(/*has_conversion=*/false);
  ASSERT_TRUE(Save(log, MakePredictions()).ok());
  const absl::StatusOr<Predictions> loaded = LoadPredictions(path(), log);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->p_ctcvr, testing::Each(0.0f));
  EXPECT_EQ(LoadPredictions(path(), MakeLog()).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(PredictionsFile, NoRowsAreWrittenAndRead) {
  ASSERT_TRUE(Save(MakeLog(), Predictions()).ok());
  const absl::StatusOr<Predictions> loaded = LoadPredictions(path(), MakeLog());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->rows(), 0);
}

TEST_F(PredictionsFile, MissingBrokenOrForeignFileIsRefusedByName) {
  EXPECT_EQ(LoadPredictions(path(), MakeLog()).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Save(MakeLog(), MakePredictions()).ok());
  FakeLog other;
  AddItems({0}, {0}, &other);
  other.AddBehaviour(/*user=*/2, /*item=*/0, 0);
  const absl::Status foreign = LoadPredictions(path(), other).status();
  EXPECT_EQ(foreign.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(foreign.message(), HasSubstr("item_id 1001"));
  std::filesystem::resize_file(path(), std::filesystem::file_size(path()) - 5);
  const absl::Status torn = LoadPredictions(path(), MakeLog()).status();
  EXPECT_EQ(torn.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(torn.message(), HasSubstr("predictions.parquet"));
}

}  // namespace
}  // namespace savior
