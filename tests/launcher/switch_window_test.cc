#include "launcher/switch_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace savior {
namespace {

const std::vector<std::string> kNames = {"step",
                                         "loss_ctr",
                                         "codebook.version",
                                         "progressive.new.auc",
                                         "progressive.new.n",
                                         "rss_bytes",
                                         "codebook.since_step"};

RefreshHistory SwitchesAt(const std::vector<std::pair<int64_t, uint32_t>>& switches) {
  RefreshHistory history;
  for (const auto& [step, version] : switches) {
    CodebookRefresh& refresh = history.refreshes.emplace_back();
    refresh.version = version;
    refresh.fate = CodebookRefresh::Fate::kProbation;
    refresh.switched = step;
  }
  return history;
}

void Add(int64_t step, double loss, double version, SwitchWindows* windows) {
  const std::vector<MetricsValue> values = {
      {0, static_cast<double>(step)}, {1, loss}, {2, version}};
  windows->Add({step, false, values}, kNames);
}

std::optional<WindowFigure> FigureOf(const SwitchWindow& window, const std::string& name) {
  for (const WindowFigure& figure : window.figures) {
    if (figure.name == name) return figure;
  }
  return std::nullopt;
}

TEST(SwitchWindows, AreMeansBeforeAndAfter) {
  SwitchWindows windows(SwitchesAt({{20, 1}}), 10);
  for (int64_t step = 1; step <= 40; ++step) {
    Add(step, static_cast<double>(step), step <= 20 ? 0 : 1, &windows);
  }
  const auto told = windows.Figures(kNames);
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].lines_before, 10u);
  EXPECT_EQ(told[0].lines_after, 10u);
  const auto loss = FigureOf(told[0], "loss_ctr");
  ASSERT_TRUE(loss);
  EXPECT_EQ(loss->before, 15.5);  // 11..20: the line of a step is written before the switch
  EXPECT_EQ(loss->after, 25.5);   // 21..30
  EXPECT_FALSE(FigureOf(told[0], "rss_bytes"));
}

TEST(SwitchWindows, OfARolledBackSwitchShowWhatCameOfIt) {
  SwitchWindows windows(SwitchesAt({{20, 1}}), 10);
  for (int64_t step = 1; step <= 30; ++step) Add(step, 1, step <= 20 ? 0 : 1, &windows);
  // Rolled back, and done again with the version before.
  for (int64_t step = 21; step <= 40; ++step) Add(step, 5, 0, &windows);
  const auto loss = FigureOf(windows.Figures(kNames)[0], "loss_ctr");
  EXPECT_EQ(loss->before, 1);
  EXPECT_EQ(loss->after, 1);
}

TEST(SwitchWindows, OfAVersionThatComesAgainAreItsOwn) {
  SwitchWindows windows(SwitchesAt({{20, 1}, {26, 1}}), 10);
  const auto add = [&](int64_t step, double loss, double version, double since) {
    const std::vector<MetricsValue> values = {
        {0, static_cast<double>(step)}, {1, loss}, {2, version}, {6, since}};
    windows.Add({step, false, values}, kNames);
  };
  for (int64_t step = 15; step <= 20; ++step) add(step, 1, 0, 0);
  for (int64_t step = 21; step <= 24; ++step) add(step, 2, 1, 20);
  for (int64_t step = 21; step <= 26; ++step) add(step, 3, 0, 20);  // rolled back
  for (int64_t step = 27; step <= 30; ++step) add(step, 4, 1, 26);
  const auto told = windows.Figures(kNames);
  EXPECT_EQ(told[0].lines_after, 4u);
  EXPECT_EQ(FigureOf(told[0], "loss_ctr")->after, 2);
  EXPECT_EQ(told[1].lines_after, 4u);
  EXPECT_EQ(FigureOf(told[1], "loss_ctr")->after, 4);
  EXPECT_EQ(told[1].lines_before, 10u);  // 17..26, the latter six of them of after the rollback
  EXPECT_DOUBLE_EQ(*FigureOf(told[1], "loss_ctr")->before, (4 * 1 + 6 * 3) / 10.0);
}

TEST(SwitchWindows, OfStepsDoneTwiceTheLaterCount) {
  SwitchWindows windows(SwitchesAt({{20, 1}}), 10);
  for (int64_t step = 15; step <= 24; ++step) Add(step, 1, step <= 20 ? 0 : 1, &windows);
  for (int64_t step = 18; step <= 24; ++step) Add(step, 3, step <= 20 ? 0 : 1, &windows);
  const auto told = windows.Figures(kNames);
  EXPECT_EQ(told[0].lines_before, 6u);
  EXPECT_EQ(told[0].lines_after, 4u);
  EXPECT_EQ(FigureOf(told[0], "loss_ctr")->before, 2);
  EXPECT_EQ(FigureOf(told[0], "loss_ctr")->after, 3);
}

TEST(SwitchWindows, DoNotReachBeyondTheirNeighbours) {
  SwitchWindows windows(SwitchesAt({{20, 1}, {25, 2}}), 10);
  for (int64_t step = 1; step <= 40; ++step) {
    Add(step, 1, step <= 20 ? 0 : step <= 25 ? 1 : 2, &windows);
  }
  const auto told = windows.Figures(kNames);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[0].lines_after, 5u);
  EXPECT_EQ(told[1].lines_before, 5u);
  EXPECT_EQ(told[1].lines_after, 10u);
}

TEST(SwitchWindows, WeighByImpressions) {
  SwitchWindows windows(SwitchesAt({{2, 1}}), 10);
  const std::vector<MetricsValue> few = {{0, 3}, {2, 1}, {3, 1.0}, {4, 10}};
  const std::vector<MetricsValue> many = {{0, 4}, {2, 1}, {3, 0.5}, {4, 30}};
  const std::vector<MetricsValue> none = {{0, 5}, {2, 1}, {4, 7}};  // AUC is not defined
  windows.Add({3, false, few}, kNames);
  windows.Add({4, false, many}, kNames);
  windows.Add({5, false, none}, kNames);
  const auto told = windows.Figures(kNames);
  const auto auc = FigureOf(told[0], "progressive.new.auc");
  ASSERT_TRUE(auc);
  EXPECT_FALSE(auc->before);
  EXPECT_EQ(auc->after, 0.625);
  EXPECT_FALSE(FigureOf(told[0], "progressive.new.n"));
}

TEST(SwitchWindows, WithoutLinesHaveNoFigures) {
  const SwitchWindows windows(SwitchesAt({{20, 1}}), 10);
  const auto told = windows.Figures({});
  ASSERT_EQ(told.size(), 1u);
  EXPECT_TRUE(told[0].figures.empty());
  RefreshHistory interrupted = SwitchesAt({{20, 1}});
  interrupted.refreshes[0].fate = CodebookRefresh::Fate::kInterrupted;
  EXPECT_TRUE(SwitchWindows(interrupted, 10).Figures({}).empty());
}

TEST(SwitchWindows, AreARoundNumberOfStepsAndBounded) {
  EXPECT_EQ(SwitchWindows::StepsFor(1), 100);
  EXPECT_EQ(SwitchWindows::StepsFor(4000), 200);
  EXPECT_EQ(SwitchWindows::StepsFor(30'000), 1000);
  EXPECT_EQ(SwitchWindows::StepsFor(10'000'000), 5000);
}

}  // namespace
}  // namespace savior
