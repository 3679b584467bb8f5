// Worlds at the edge of what data can be: a clear result or a clear error, never a crash.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "common/random.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "tests/worker/data/raw_tables.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RandomRaw;
using testing::RawData;
using testing::WriteTables;

constexpr const char* kAllArms[] = {"base",        "generic_content", "saviorenc", "sid",
                                    "mba",         "savior",          "mba_off",   "shuffled_sid",
                                    "free_content"};

// One of each way of using content.
constexpr const char* kFewArms[] = {"base", "sid", "savior", "free_content"};

class DegenerateWorld : public ::testing::Test {
 protected:
  // 60 requests over six days from 2022-01-08; the last two are scored. Vectors of 16.
  static RawData World() {
    RawData raw = RandomRaw(/*seed=*/1, /*requests=*/60, /*days=*/6);
    Random random(/*seed=*/2);
    for (auto& vector : raw.vectors) {
      while (vector.text->size() < 16) vector.text->push_back(static_cast<float>(random.Uniform()));
    }
    return raw;
  }

  void Write(const RawData& raw) { WriteTables(raw.Tables(), folder_ / "raw"); }

  Config Arm(const std::string& arm) const {
    Config config = SmallRun(folder_.path(), arm);
    config.data.train_from = "2022-01-08";
    config.data.train_until = config.data.eval_from = "2022-01-12";
    config.data.eval_until = "2022-01-14";
    config.model.arm = arm;
    return config;
  }

  // Trains, and resumes what was trained.
  void ExpectResult(const Config& config) {
    SCOPED_TRACE(config.model.arm);
    const auto trained = TrainQuietly(config);
    ASSERT_TRUE(trained.ok()) << trained.status();
    const auto resumed = TrainQuietly(config, {.resume = true});
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_TRUE(*trained == *resumed);
  }

  const TempFolder folder_;
};

TEST_F(DegenerateWorld, AnOrdinaryOne) {
  Write(World());
  for (const char* arm : kAllArms) ExpectResult(Arm(arm));
}

TEST_F(DegenerateWorld, OneItemWithAVector) {
  RawData raw = World();
  raw.vectors.resize(1);
  Write(raw);
  for (const char* arm : kFewArms) ExpectResult(Arm(arm));
}

TEST_F(DegenerateWorld, NoItemWithAVector) {
  RawData raw = World();
  raw.vectors.resize(1);
  raw.vectors[0].text.reset();
  auto tables = raw.Tables();
  tables["item_vectors"].Set("text",
                             testing::Lists({std::nullopt}, testing::Element::kHalf, false));
  WriteTables(tables, folder_ / "raw");
  for (const char* arm : kAllArms) {
    const absl::Status status = TrainQuietly(Arm(arm)).status();
    if (arm == std::string_view("base")) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("vector")) << arm;
  }
}

TEST_F(DegenerateWorld, EveryVectorTheSame) {
  RawData raw = World();
  for (auto& vector : raw.vectors) vector.text->assign(16, 1.0f);
  Write(raw);
  for (const char* arm : kFewArms) ExpectResult(Arm(arm));
}

TEST_F(DegenerateWorld, NobodyHasAHistory) {
  RawData raw = World();
  for (auto& behaviour : raw.behaviours) behaviour.time += 1000 * testing::kDay;  // only the future
  Write(raw);
  for (const char* arm : kFewArms) ExpectResult(Arm(arm));
}

TEST_F(DegenerateWorld, HistoriesAreSwitchedOff) {
  Write(World());
  for (const char* arm : kFewArms) {
    Config config = Arm(arm);
    config.data.max_history = 0;
    ExpectResult(config);
  }
}

TEST_F(DegenerateWorld, NoConversionsInTheData) {
  auto tables = World().Tables();
  tables["impressions"].Drop("conversion");
  WriteTables(tables, folder_ / "raw");
  ExpectResult(Arm("savior"));
  const auto json = nlohmann::json::parse(ReadFile(folder_ / "savior" / "result.json").value());
  EXPECT_TRUE(json.at("eval").contains("ctr"));
  EXPECT_FALSE(json.at("eval").contains("ctcvr") && json.at("eval").at("ctcvr").contains("all"));
}

TEST_F(DegenerateWorld, NothingIsClicked) {
  RawData raw = World();
  for (auto& impression : raw.impressions) impression.click = impression.conversion = 0;
  Write(raw);
  ExpectResult(Arm("savior"));
  const auto json = nlohmann::json::parse(ReadFile(folder_ / "savior" / "result.json").value());
  EXPECT_TRUE(json.at("eval").at("ctr").at("all").at("auc").is_null());
}

TEST_F(DegenerateWorld, NoRequestsToTrainOnNamesTheDaysThereAre) {
  Write(World());
  for (const char* arm : {"base", "savior"}) {
    Config config = Arm(arm);
    config.data.train_from = "2021-06-01";
    config.data.train_until = "2021-06-02";
    const absl::Status status = TrainQuietly(config).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("no requests to train on"), HasSubstr("data.train_from"),
                      HasSubstr("from 2022-01-08 to 2022-01-13")));
    // Nothing of it is in the way of the next try.
    ExpectResult(Arm(arm));
  }
}

TEST_F(DegenerateWorld, NoRequestsToScore) {
  Write(World());
  Config config = Arm("savior");
  config.data.eval_from = "2023-01-01";
  config.data.eval_until = "2023-01-02";
  const auto result = TrainQuietly(config);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->ctr[0].second.n, 0);
  EXPECT_FALSE(result->ctr[0].second.auc.has_value());
}

TEST_F(DegenerateWorld, OneRequest) {
  RawData raw = World();
  raw.impressions.resize(1);
  raw.impressions[0].time = testing::kStart;
  Write(raw);
  for (const char* arm : kFewArms) ExpectResult(Arm(arm));
}

TEST_F(DegenerateWorld, TheLeastOfEverything) {
  Write(World());
  Config config = Arm("savior");
  config.encoder.dim = 4;
  config.encoder.hidden = 1;
  config.encoder.batch = 2;
  config.encoder.steps = 0;
  config.codebook.levels = 1;
  config.codebook.codes = 2;
  config.codebook.hidden = 1;
  config.codebook.latent = 1;
  config.model.id_dim = 4;
  config.model.attention_hidden = 1;
  config.model.dnn = "";
  config.model.tower = "";
  config.model.fusion_hidden = 1;
  config.train.requests_per_batch = 1;
  config.train.shuffle_window = 0;
  config.ps.ram_budget_mb = 1;
  config.eval.requests_per_batch = 1;
  ExpectResult(config);
}

TEST_F(DegenerateWorld, DivergenceIsNamed) {
  Write(World());
  Config config = Arm("savior");
  config.train.dense_lr = 1e30;
  config.train.table_lr = 1e30;
  const absl::Status status = TrainQuietly(config).status();
  ASSERT_FALSE(status.ok());
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("step"));
}

}  // namespace
}  // namespace savior
