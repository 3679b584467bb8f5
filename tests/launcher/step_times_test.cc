#include "launcher/step_times.h"

#include <gtest/gtest.h>

namespace savior {
namespace {

TEST(Durations, OfNoneAreZero) {
  EXPECT_EQ(Durations().Mean(), 0);
  EXPECT_EQ(Durations().Percentile(0.99), 0);
}

TEST(Durations, PercentilesAreRightWithinFivePercent) {
  Durations durations;
  for (int i = 1; i <= 1000; ++i) durations.Add(i * 1e-3);
  EXPECT_NEAR(durations.Mean(), 0.5005, 1e-9);
  for (const double share : {0.1, 0.5, 0.99, 1.0}) {
    EXPECT_GE(durations.Percentile(share), share * 0.9999) << share;
    EXPECT_LE(durations.Percentile(share), share * 1.0501) << share;
  }
}

TEST(Durations, BeyondTheRangesCountAtTheirEnds) {
  Durations durations;
  durations.Add(0);
  EXPECT_LE(durations.Percentile(0.5), 1e-6);
  durations.Add(1e9);
  EXPECT_GT(durations.Percentile(0.99), 250);
  EXPECT_NEAR(durations.Mean(), 5e8, 1);
}

TEST(StepTimes, NamesThePartsOfAStep) {
  StepTimes times;
  times.Add(
      {.assemble = 1, .pull_wait = 2, .compute = 3, .push_wait = 4, .allreduce_wait = 5, .adam = 6},
      22);
  const auto json = times.ToJson();
  EXPECT_EQ(json.at("steps"), 1);
  const std::vector<std::pair<const char*, double>> parts = {
      {"step", 22},     {"assemble", 1},       {"pull_wait", 2}, {"compute", 3},
      {"push_wait", 4}, {"allreduce_wait", 5}, {"adam", 6}};
  for (const auto& [name, seconds] : parts) {
    EXPECT_EQ(json.at(name).at("mean"), seconds) << name;
    EXPECT_NEAR(json.at(name).at("p99").get<double>(), seconds, 0.051 * seconds) << name;
  }
}

}  // namespace
}  // namespace savior
