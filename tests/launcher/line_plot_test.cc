#include "launcher/line_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

#include "common/random.h"
#include "tests/common/well_formed.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A line over steps first..last with these means, each the only value of its range.
PlotLine LineOf(const std::string& name, double first, const std::vector<double>& values) {
  PlotLine line{.name = name, .points = {}};
  for (const double v : values) line.points.push_back({first++, v, v, v, 1});
  return line;
}

LinePlot PlotOf(std::vector<PlotLine> lines, double first, double last) {
  LinePlot plot;
  plot.title = "title";
  plot.unit = "unit";
  plot.lines = std::move(lines);
  plot.first_step = first;
  plot.last_step = last;
  return plot;
}

// x of every mark, by the step that it says.
std::vector<std::pair<double, double>> MarksIn(const std::string& svg) {
  static const std::regex kMark("data-step=\"([0-9]+)\">[^\n]*\n<line x1=\"([0-9.]+)\"");
  std::vector<std::pair<double, double>> marks;
  for (std::sregex_iterator m(svg.begin(), svg.end(), kMark), end; m != end; ++m) {
    marks.emplace_back(std::stod((*m)[1]), std::stod((*m)[2]));
  }
  return marks;
}

// All pairs of a polyline's or polygon's points.
std::vector<std::pair<double, double>> PointsIn(const std::string& svg, const std::string& of) {
  std::vector<std::pair<double, double>> points;
  const size_t at = svg.find("<" + of);
  if (at == std::string::npos) return points;
  const size_t begin = svg.find("points=\"", at) + 8;
  std::istringstream text(svg.substr(begin, svg.find('"', begin) - begin));
  char comma = 0;
  for (double x = 0, y = 0; text >> x >> comma >> y;) points.emplace_back(x, y);
  return points;
}

TEST(RoundTicks, AreRoundAndFew) {
  EXPECT_THAT(RoundTicks(0, 10, 6), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(RoundTicks(0.61, 0.69, 5),
              ElementsAre(DoubleNear(0.62, 1e-12), DoubleNear(0.64, 1e-12), DoubleNear(0.66, 1e-12),
                          DoubleNear(0.68, 1e-12)));
  EXPECT_THAT(RoundTicks(-1, 1, 3), ElementsAre(-1, 0, 1));
  EXPECT_TRUE(RoundTicks(1, 1, 5).empty());
  EXPECT_TRUE(RoundTicks(0, std::numeric_limits<double>::infinity(), 5).empty());
  constexpr uint64_t kSeed = 20'261'126;
  Random random(kSeed);
  for (int i = 0; i < 1000; ++i) {
    const double low = std::pow(10, random.Uniform() * 12 - 6), high = low * (1 + random.Uniform());
    const auto ticks = RoundTicks(low, high, 6);
    ASSERT_GE(ticks.size(), 1u) << low << " " << high << " seed " << kSeed;
    ASSERT_LE(ticks.size(), 8u) << low << " " << high << " seed " << kSeed;
    ASSERT_GE(ticks.front(), low * (1 - 1e-9));
    ASSERT_LE(ticks.back(), high * (1 + 1e-9));
  }
}

TEST(TickText, IsShort) {
  EXPECT_EQ(TickText(0, 0.1, 1), "0");
  EXPECT_EQ(TickText(0.3, 0.1, 0.5), "0.3");
  EXPECT_EQ(TickText(0.65, 0.05, 0.7), "0.65");
  EXPECT_EQ(TickText(500, 100, 900), "500");
  EXPECT_EQ(TickText(2000, 2000, 8000), "2000");
  EXPECT_EQ(TickText(50'000, 50'000, 100'000), "50k");
  EXPECT_EQ(TickText(1.5e6, 5e5, 2e6), "1.5M");
  EXPECT_EQ(TickText(2e9, 1e9, 3e9), "2G");
  EXPECT_EQ(TickText(2e200, 1e200, 3e200), "2e+200");
  EXPECT_EQ(TickText(-0.02, 0.02, 0.04), "-0.02");
}

TEST(DrawPlot, MarksStandAtTheirSteps) {
  LinePlot plot = PlotOf({LineOf("a", 100, std::vector<double>(101, 1.0))}, 100, 200);
  plot.marks = {{100, "switch", "v1", "one"},
                {150, "rollback", "back to v0", "two"},
                {200, "abort", "v1 aborted", "three"},
                {201, "switch", "beside", ""},
                {99, "switch", "beside", ""}};
  const std::string svg = DrawPlot(plot);
  EXPECT_EQ(WrongInMarkup(svg), "");
  const auto marks = MarksIn(svg);
  ASSERT_EQ(marks.size(), 3u) << svg;
  const auto line = PointsIn(svg, "polyline");
  ASSERT_EQ(line.size(), 101u);
  for (const auto& [step, x] : marks) {
    EXPECT_EQ(x, line[static_cast<size_t>(step) - 100].first) << step;
  }
  EXPECT_THAT(svg,
              AllOf(HasSubstr("mark-switch"), HasSubstr("mark-rollback"), HasSubstr("mark-abort"),
                    HasSubstr(">back to v0<"), Not(HasSubstr("beside"))));
}

TEST(DrawPlot, WordsOfMarksNeverOverlap) {
  LinePlot plot = PlotOf({LineOf("a", 0, std::vector<double>(101, 1.0))}, 0, 100);
  for (int step = 0; step <= 100; ++step) {
    plot.marks.push_back(
        {static_cast<double>(step), "switch", "version " + std::to_string(step), ""});
  }
  const std::string svg = DrawPlot(plot);
  EXPECT_EQ(MarksIn(svg).size(), 101u) << "lines have no words to overlap";
  const std::regex word("<text x=\"([0-9.]+)\" y=\"([0-9.]+)\">(version [0-9]+)<");
  std::map<std::string, double> free;
  int words = 0;
  for (std::sregex_iterator m(svg.begin(), svg.end(), word), end; m != end; ++m, ++words) {
    const double x = std::stod((*m)[1]);
    EXPECT_GE(x, free[(*m)[2]]);
    free[(*m)[2]] = x + 6 * static_cast<double>((*m)[3].length());
    EXPECT_LE(free[(*m)[2]], 720);
  }
  EXPECT_GT(words, 10);
}

TEST(DrawPlot, BandsGoFromLeastToMostAndEndAtTheFrame) {
  PlotLine line{.name = "a", .points = {}};
  for (int i = 0; i <= 10; ++i) {
    line.points.push_back({i * 10.0, 1.0 + 0.01 * i, 0.9, i == 5 ? 1e9 : 1.2, 10});
  }
  const std::string svg = DrawPlot(PlotOf({line}, 0, 100));
  const auto band = PointsIn(svg, "polygon"), means = PointsIn(svg, "polyline");
  ASSERT_EQ(band.size(), 22u);
  ASSERT_EQ(means.size(), 11u);
  for (size_t i = 0; i <= 10; ++i) {
    EXPECT_EQ(band[i].first, means[i].first);
    EXPECT_LE(band[i].second, means[i].second) << "up is small";
    EXPECT_GE(band[21 - i].second, means[i].second);
    EXPECT_GE(band[i].second, 0);
  }
  // One value far off has not flattened the rest.
  EXPECT_GT(means.front().second - means.back().second, 30);
}

TEST(DrawPlot, LevelsAreDrawnAndFarOnesAreOnlyNamed) {
  LinePlot plot = PlotOf({LineOf("a", 0, {0.9, 1.0, 1.05})}, 0, 2);
  plot.levels = {{"refresh.max_rq_mse_ratio", 1.15}};
  EXPECT_THAT(DrawPlot(plot), HasSubstr("class=\"level\""));
  EXPECT_THAT(DrawLegend(plot), HasSubstr("refresh.max_rq_mse_ratio = 1.15"));
  plot.levels[0].y = 1000;
  EXPECT_THAT(DrawPlot(plot), Not(HasSubstr("class=\"level\"")));
  EXPECT_THAT(DrawLegend(plot), HasSubstr("refresh.max_rq_mse_ratio = 1000"));
}

TEST(DrawPlot, OfDegenerateWorldsIsWellFormed) {
  const std::vector<LinePlot> plots = {
      PlotOf({}, 0, 0),
      PlotOf({LineOf("none", 0, {})}, 5, 5),
      PlotOf({LineOf("one", 5, {3})}, 5, 5),
      PlotOf({LineOf("zeros", 0, {0, 0, 0})}, 0, 2),
      PlotOf({LineOf("flat", 0, {-7, -7})}, 0, 1),
      PlotOf({LineOf("tiny", 0, {1e-300, 2e-300})}, 0, 1),
      PlotOf({LineOf("huge", 0, {1e300, -1e300})}, 0, 1),
  };
  for (LinePlot plot : plots) {
    for (const bool log : {false, true}) {
      plot.log = log;
      plot.marks = {{0, "switch", "v1", ""}};
      const std::string svg = DrawPlot(plot) + DrawLegend(plot);
      EXPECT_EQ(WrongInMarkup(svg), "") << svg;
      EXPECT_THAT(svg, AllOf(Not(HasSubstr("nan")), Not(HasSubstr("inf"))));
    }
  }
  EXPECT_TRUE(IsEmpty(plots[0]));
  EXPECT_TRUE(IsEmpty(plots[1]));
  EXPECT_FALSE(IsEmpty(plots[2]));
  EXPECT_THAT(DrawPlot(plots[2]), HasSubstr("<circle")) << "a point alone is seen";
}

TEST(DrawPlot, LogAxesHaveEqualDistancesForEqualFactors) {
  LinePlot plot = PlotOf({LineOf("a", 0, {1, 10, 100, 1000})}, 0, 3);
  plot.log = true;
  const std::string svg = DrawPlot(plot);
  const auto points = PointsIn(svg, "polyline");
  ASSERT_EQ(points.size(), 4u);
  EXPECT_NEAR(points[0].second - points[1].second, points[2].second - points[3].second, 0.11);
  EXPECT_THAT(svg, AllOf(HasSubstr(">10<"), HasSubstr(">1000<")));
}

TEST(DrawPlot, TextIsEscaped) {
  LinePlot plot = PlotOf({LineOf("<script>&", 0, {1, 2})}, 0, 1);
  plot.title = plot.unit = "a<b>\"c\"";
  plot.levels = {{"<level>", 1.5}};
  plot.marks = {{1, "switch", "<v1>", "\"<>&"}};
  const std::string svg = DrawPlot(plot) + DrawLegend(plot);
  EXPECT_EQ(WrongInMarkup(svg), "") << svg;
  EXPECT_THAT(svg, AllOf(Not(HasSubstr("<script")), HasSubstr("&lt;script&gt;&amp;"),
                         HasSubstr("&lt;level&gt;"), HasSubstr("&lt;v1&gt;")));
}

}  // namespace
}  // namespace savior
