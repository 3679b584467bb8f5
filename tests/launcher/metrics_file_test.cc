#include "launcher/metrics_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "launcher/binned_series.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class MetricsFileTest : public ::testing::Test {
 protected:
  fs::path Write(const std::string& text) const {
    fs::path path = folder_ / "metrics.jsonl";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  // Lines of these steps.
  fs::path WriteSteps(const std::vector<int64_t>& steps) const {
    std::string text;
    for (const int64_t step : steps) text += "{\"step\":" + std::to_string(step) + "}\n";
    return Write(text);
  }
  // Steps of the lines that hold.
  static std::vector<int64_t> Hold(const fs::path& path) {
    auto file = MetricsFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    std::vector<int64_t> steps;
    const absl::Status read = file->ForEach([&](const MetricsLine& line) {
      if (!line.superseded) steps.push_back(line.step);
      return absl::OkStatus();
    });
    EXPECT_TRUE(read.ok()) << read;
    return steps;
  }

  const TempFolder folder_;
};

TEST_F(MetricsFileTest, NumbersHaveTheirPathsAsNames) {
  auto file = MetricsFile::Open(
      Write("{\"step\":3,\"loss\":0.5,\"tables\":{\"user\":{\"rows\":7}},\"list\":[1,{\"x\":-2e1}],"
            "\"text\":\"a\",\"none\":null,\"yes\":true}\n"
            "{\"step\":4,\"fresh\":1,\"loss\":0.25}\n"));
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::map<std::string, double>> lines;
  ASSERT_TRUE(file->ForEach([&](const MetricsLine& line) {
                    auto& values = lines.emplace_back();
                    for (const MetricsValue& v : line.values)
                      values[file->names()[v.name]] = v.value;
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(
      lines[0],
      (std::map<std::string, double>{
          {"step", 3}, {"loss", 0.5}, {"tables.user.rows", 7}, {"list.0", 1}, {"list.1.x", -20}}));
  EXPECT_EQ(lines[1], (std::map<std::string, double>{{"step", 4}, {"fresh", 1}, {"loss", 0.25}}));
}

TEST_F(MetricsFileTest, OfStepsDoneTwiceTheLaterHold) {
  EXPECT_THAT(Hold(WriteSteps({1, 2, 3})), ElementsAre(1, 2, 3));
  // Killed after 5, from a commit at 2; then after 4, from one at 3.
  EXPECT_THAT(Hold(WriteSteps({1, 2, 3, 4, 5, 3, 4, 4, 5, 6})), ElementsAre(1, 2, 3, 4, 5, 6));
  // A line every ten steps; the second start lands between them, and a third one before both.
  EXPECT_THAT(Hold(WriteSteps({10, 20, 30, 40, 25, 35, 15, 25})), ElementsAre(10, 15, 25));
  EXPECT_THAT(Hold(WriteSteps({1, 2, 1})), ElementsAre(1));
  EXPECT_THAT(Hold(WriteSteps({7})), ElementsAre(7));
}

TEST_F(MetricsFileTest, SaysItsStepsAndRestarts) {
  const auto file = MetricsFile::Open(WriteSteps({1, 2, 3, 4, 2, 3}));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->lines(), 6);
  EXPECT_EQ(file->restarts(), 1);
  EXPECT_EQ(file->first_step(), 1);
  EXPECT_EQ(file->last_step(), 3);
}

TEST_F(MetricsFileTest, AMissingEmptyOrTornFileIsFine) {
  EXPECT_TRUE(MetricsFile::Open(folder_ / "nowhere").value().empty());
  EXPECT_TRUE(MetricsFile::Open(Write("")).value().empty());
  EXPECT_TRUE(MetricsFile::Open(Write("{\"step\":1,\"lo")).value().empty());
  EXPECT_THAT(Hold(Write("{\"step\":1}\n{\"step\":2,\"lo")), ElementsAre(1));
  EXPECT_THAT(Hold(Write("{\"step\":1}\n{\"step\":2}")), ElementsAre(1)) << "it may go on";
}

TEST_F(MetricsFileTest, LinesWrittenAfterItWasOpenedAreNotRead) {
  const fs::path path = WriteSteps({1, 2});
  auto file = MetricsFile::Open(path);
  ASSERT_TRUE(file.ok());
  std::ofstream(path, std::ios::app) << "{\"step\":3}\n";
  int64_t lines = 0;
  ASSERT_TRUE(file->ForEach([&](const MetricsLine&) {
                    ++lines;
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(lines, 2);
}

TEST_F(MetricsFileTest, DamageInTheMiddleIsNamed) {
  for (const char* damaged :
       {"{\"step\":1}\n{\"step\":2,\"a\":}\n{\"step\":3}\n", "{\"step\":1}\n\n{\"step\":3}\n",
        "{\"step\":1}\n{\"step\":-2}\n", "{\"step\":1}\n{\"loss\":1,\"step\":2}\n",
        "{\"step\":1}\n{\"step\":2}{\n"}) {
    SCOPED_TRACE(damaged);
    auto file = MetricsFile::Open(Write(damaged));
    const absl::Status status =
        file.ok() ? file->ForEach([](const MetricsLine&) { return absl::OkStatus(); })
                  : file.status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("metrics.jsonl"), HasSubstr("line 2")));
  }
}

TEST(BinnedSeries, IsExactWhereEveryStepHasItsRange) {
  BinnedSeries series(5, 8, 100);
  EXPECT_TRUE(series.empty());
  for (const int64_t step : {5, 7, 8}) series.Add(step, static_cast<double>(step * step));
  series.Add(4, 1);  // beside them
  series.Add(9, 1);
  series.Add(6, std::nan(""));
  const auto points = series.Points();
  ASSERT_EQ(points.size(), 3u);
  for (const SeriesPoint& p : points) {
    EXPECT_EQ(p.mean, p.step * p.step);
    EXPECT_EQ(p.least, p.most);
    EXPECT_EQ(p.count, 1);
  }
}

TEST(BinnedSeries, KeepsMeanAndExtremesOfEveryRange) {
  BinnedSeries series(1, 1'000'000, 500);
  for (int64_t step = 1; step <= 1'000'000; ++step) {
    series.Add(step, step == 123'456 ? 1e9 : static_cast<double>(step % 7));
  }
  const auto points = series.Points();
  EXPECT_EQ(points.size(), 500u);
  int64_t count = 0, spikes = 0;
  for (const SeriesPoint& p : points) {
    count += p.count;
    spikes += p.most == 1e9;
    EXPECT_EQ(p.least, 0);
    if (p.most == 1e9) continue;
    EXPECT_EQ(p.most, 6);
    EXPECT_NEAR(p.mean, 3, 0.01);
  }
  EXPECT_EQ(count, 1'000'000);
  EXPECT_EQ(spikes, 1);
  EXPECT_NEAR(points.front().step, 1000.5, 1e-6);
}

TEST(BinnedSeries, OneStepIsOneRange) {
  for (const size_t ranges : {1, 3}) {
    BinnedSeries series(9, 9, ranges);
    series.Add(9, 2);
    series.Add(9, 4);
    ASSERT_EQ(series.Points().size(), 1u);
    EXPECT_EQ(series.Points()[0].mean, 3);
    EXPECT_EQ(series.Points()[0].step, 9);
  }
}

}  // namespace
}  // namespace savior
