#include "bench/step_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "common/markup.h"

namespace savior {
namespace {

constexpr double kWidth = 920, kLeft = 120, kRight = 20, kLaneHeight = 18, kLaneGap = 4;
constexpr double kTitleHeight = 30;

std::string ColourOf(const std::vector<LegendEntry>& legend, char letter) {
  const auto found = std::ranges::find(legend, letter, &LegendEntry::letter);
  return found == legend.end() ? "#bbb" : found->colour;
}

std::string Rect(double x, double y, double width, double height, const std::string& colour) {
  return fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", x, y,
      width, height, colour);
}

}  // namespace

std::string DrawText(const StepChart& chart, size_t columns) {
  std::string text = fmt::format("{}, {:.1f} ms\n", chart.title, chart.seconds * 1e3);
  const double scale = static_cast<double>(columns) / chart.seconds;
  const auto column = [&](double seconds) {
    return static_cast<size_t>(
        std::clamp(std::round(seconds * scale), 0.0, static_cast<double>(columns)));
  };
  for (const Lane& lane : chart.lanes) {
    std::string line(columns, '.');
    for (const Bar& bar : lane.bars) {
      for (size_t c = column(bar.begin); c < column(bar.end); ++c) line[c] = bar.letter;
    }
    text += fmt::format("  {:<10}|{}|\n", lane.name, line);
  }
  return text;
}

std::string DrawSvg(const std::vector<StepChart>& charts, const std::vector<LegendEntry>& legend) {
  double longest = 1e-9, height = 10;
  for (const StepChart& t : charts) {
    longest = std::max(longest, t.seconds);
    height += kTitleHeight + static_cast<double>(t.lanes.size()) * (kLaneHeight + kLaneGap);
  }
  const double scale = (kWidth - kLeft - kRight) / longest;
  std::string svg;
  double y = 0;
  for (const StepChart& t : charts) {
    y += kTitleHeight;
    svg += SvgText(10, y - 8, fmt::format("{}: {:.1f} ms", t.title, t.seconds * 1e3),
                   " font-weight=\"bold\"");
    for (const Lane& lane : t.lanes) {
      svg += SvgText(10, y + kLaneHeight - 5, lane.name);
      svg += Rect(kLeft, y, t.seconds * scale, kLaneHeight, "#f4f4f4");
      for (const Bar& bar : lane.bars) {
        const double begin = std::max(0.0, bar.begin), end = std::min(t.seconds, bar.end);
        if (end <= begin) continue;
        svg += Rect(kLeft + begin * scale, y, std::max(0.5, (end - begin) * scale), kLaneHeight,
                    ColourOf(legend, bar.letter));
      }
      y += kLaneHeight + kLaneGap;
    }
  }
  double x = 10;
  y += 14;
  for (const LegendEntry& entry : legend) {
    const double width = 24 + 7.2 * static_cast<double>(entry.meaning.size());
    if (x + width > kWidth) {
      x = 10;
      y += 20;
    }
    svg += Rect(x, y, 12, 12, entry.colour) + SvgText(x + 16, y + 11, entry.meaning);
    x += width;
  }
  height = y + 24;
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" "
             "font-family=\"DejaVu Sans, Helvetica, sans-serif\" font-size=\"13\">\n"
             "<rect width=\"{:.0f}\" height=\"{:.0f}\" fill=\"#fff\"/>\n",
             kWidth, height, kWidth, height) +
         svg + "</svg>\n";
}

}  // namespace savior
