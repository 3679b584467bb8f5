#include "launcher/line_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "common/markup.h"

namespace savior {
namespace {

constexpr double kWidth = 720, kHeight = 240;
constexpr double kLeft = 58, kRight = 14, kTop = 34, kBottom = 34;
constexpr double kMarkRows[] = {11, 23};  // baselines of their words
constexpr double kLetter = 6.2;           // width of one at the font's size of 11
constexpr int kTicksX = 8, kTicksY = 6;

// From steps and values to the picture.
struct Frame {
  double x0 = 0, x1 = 1, y0 = 0, y1 = 1;
  bool log = false;

  double X(double step) const {
    return kLeft + (step - x0) / (x1 - x0) * (kWidth - kLeft - kRight);
  }
  double Y(double value) const {
    const double share = (Scaled(value) - y0) / (y1 - y0);
    return kHeight - kBottom - std::clamp(share, 0.0, 1.0) * (kHeight - kTop - kBottom);
  }
  double Scaled(double value) const {
    if (!log) return value;
    return value > 0 ? std::log10(value) : -std::numeric_limits<double>::infinity();
  }
};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

Frame FrameOf(const LinePlot& plot) {
  Frame frame{.log = plot.log};
  Range means, all;
  for (const PlotLine& line : plot.lines) {
    for (const SeriesPoint& p : line.points) {
      means.Add(frame.Scaled(p.mean));
      for (const double value : {p.least, p.most}) all.Add(frame.Scaled(value));
    }
  }
  if (means.empty()) means = {0, 1};
  // A single value far off must not flatten everything else: bands end at the frame.
  const double span = std::max(means.high - means.low, 1e-9 * std::abs(means.high));
  Range range = means;
  range.Add(std::max(all.empty() ? range.low : all.low, means.low - span));
  range.Add(std::min(all.empty() ? range.high : all.high, means.high + span));
  const double reach = std::max(2 * span, 20 * std::abs(means.high));
  for (const PlotLevel& level : plot.levels) {
    const double y = frame.Scaled(level.y);
    if (y > range.low - reach && y < range.high + reach) range.Add(y);
  }
  if (plot.from_zero && !plot.log) range.Add(0);
  double margin = 0.06 * (range.high - range.low);
  if (margin <= 0) margin = range.high == 0 ? 1 : 0.1 * std::abs(range.high);
  // Nothing below zero where nothing is.
  frame.y0 = !plot.log && range.low >= 0 && range.low < 2 * margin ? 0 : range.low - margin;
  frame.y1 = range.high + margin;
  frame.x0 = plot.first_step;
  frame.x1 = plot.last_step > plot.first_step ? plot.last_step : plot.first_step + 1;
  return frame;
}

// 10, 100, ...; where there are less than two of them, 1, 2, 5, 10, ..., or what a linear axis has.
std::vector<double> LogTicks(double low, double high) {
  if (high - low < 1) return RoundTicks(std::pow(10, low), std::pow(10, high), kTicksY);
  std::vector<double> ticks;
  const bool sparse = high - low < 2;
  const double every = std::max(1.0, std::ceil((high - low) / kTicksY));
  for (double power = std::floor(low); power <= high; power += every) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double at = power + std::log10(factor);
      const bool shown = (factor == 1 || sparse) && at >= low && at <= high;
      if (shown && std::isfinite(std::pow(10, at))) ticks.push_back(std::pow(10, at));
    }
  }
  return ticks;
}

std::string Line(double x0, double y0, double x1, double y1, std::string_view more) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"{}/>\n", x0, y0,
                     x1, y1, more);
}

std::string Axes(const LinePlot& plot, const Frame& frame) {
  std::string svg;
  const std::vector<double> ys =
      plot.log ? LogTicks(frame.y0, frame.y1) : RoundTicks(frame.y0, frame.y1, kTicksY);
  const auto spacing = [](const std::vector<double>& ticks) {
    return ticks.size() > 1 ? ticks[1] - ticks[0] : ticks.empty() ? 1 : std::abs(ticks[0]);
  };
  const auto largest = [](const std::vector<double>& ticks) {
    double most = 0;
    for (const double t : ticks) most = std::max(most, std::abs(t));
    return most;
  };
  for (const double y : ys) {
    const double at = frame.Y(y);
    svg += Line(kLeft, at, kWidth - kRight, at, " class=\"grid\"");
    svg += SvgText(kLeft - 6, at + 4,
                   plot.log ? TickText(y, y, y) : TickText(y, spacing(ys), largest(ys)),
                   " text-anchor=\"end\"");
  }
  const std::vector<double> xs = RoundTicks(frame.x0, frame.x1, kTicksX);
  for (const double x : xs) {
    if (x != std::floor(x)) continue;  // there is no half step
    svg +=
        Line(frame.X(x), kHeight - kBottom, frame.X(x), kHeight - kBottom + 4, " class=\"axis\"");
    svg += SvgText(frame.X(x), kHeight - kBottom + 16, TickText(x, spacing(xs), largest(xs)),
                   " text-anchor=\"middle\"");
  }
  svg += Line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, " class=\"axis\"");
  svg += SvgText((kLeft + kWidth - kRight) / 2, kHeight - 4, "step", " text-anchor=\"middle\"");
  if (!plot.unit.empty()) svg += SvgText(4, kMarkRows[1], plot.unit);
  return svg;
}

std::string Band(const PlotLine& line, const Frame& frame, size_t colour) {
  std::string there, back;
  bool any = false;
  for (const SeriesPoint& p : line.points) {
    any = any || p.most > p.least;
    there += fmt::format("{:.1f},{:.1f} ", frame.X(p.step), frame.Y(p.most));
  }
  if (!any || line.dots) return "";
  for (auto p = line.points.rbegin(); p != line.points.rend(); ++p) {
    back += fmt::format("{:.1f},{:.1f} ", frame.X(p->step), frame.Y(p->least));
  }
  back.pop_back();
  return fmt::format("<polygon class=\"band-{}\" points=\"{}{}\"/>\n", colour, there, back);
}

std::string Curve(const PlotLine& line, const Frame& frame, size_t colour) {
  std::string points;
  size_t drawn = 0;
  for (const SeriesPoint& p : line.points) {
    // Of things that happen, the worst of each range.
    const double y = line.dots ? p.most : p.mean;
    if (frame.log && y <= 0) continue;
    ++drawn;
    points += line.dots ? fmt::format(
                              "<circle class=\"dot-{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" "
                              "r=\"2.2\"/>\n",
                              colour, frame.X(p.step), frame.Y(y))
                        : fmt::format("{:.1f},{:.1f} ", frame.X(p.step), frame.Y(y));
  }
  if (line.dots || drawn == 0) return points;
  points.pop_back();
  if (drawn > 1)
    return fmt::format("<polyline class=\"line-{}\" points=\"{}\"/>\n", colour, points);
  const size_t comma = points.find(',');  // one point has no line
  return fmt::format("<circle class=\"dot-{}\" cx=\"{}\" cy=\"{}\" r=\"2.2\"/>\n", colour,
                     points.substr(0, comma), points.substr(comma + 1));
}

bool IsWithin(const PlotMark& mark, const Frame& frame) {
  return mark.step >= frame.x0 && mark.step <= frame.x1;
}

// Lines from top to bottom; their words where no other one is in the way.
std::string Marks(const LinePlot& plot, const Frame& frame) {
  std::string svg;
  std::array<double, std::size(kMarkRows)> free = {};
  free.back() = plot.unit.empty() ? 0 : 8 + kLetter * static_cast<double>(plot.unit.size());
  for (const PlotMark& mark : plot.marks) {
    if (!IsWithin(mark, frame)) continue;
    const double x = frame.X(mark.step);
    svg += fmt::format("<g class=\"mark mark-{}\" data-step=\"{:.0f}\"><title>{}</title>\n",
                       EscapeMarkup(mark.kind), mark.step, EscapeMarkup(mark.more));
    svg += Line(x, kTop - 6, x, kHeight - kBottom, "");
    const double width = kLetter * static_cast<double>(mark.text.size());
    const double left = std::clamp(x - width / 2, 0.0, kWidth - width);
    for (size_t row = 0; row < free.size(); ++row) {
      if (left < free[row]) continue;
      svg += SvgText(left, kMarkRows[row], mark.text);
      free[row] = left + width + kLetter;
      break;
    }
    svg += "</g>\n";
  }
  return svg;
}

}  // namespace

std::vector<double> RoundTicks(double low, double high, int most) {
  std::vector<double> ticks;
  const double rough = (high - low) / std::max(1, most - 1);
  if (!(rough > 0) || !std::isfinite(rough)) return ticks;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double spacing = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) {
      spacing = factor * power;
      break;
    }
  }
  const double first = std::ceil(low / spacing - 1e-9);
  for (double n = first; n * spacing <= high + 1e-9 * spacing; ++n) {
    ticks.push_back(n == 0 ? 0 : n * spacing);  // not -0
  }
  return ticks;
}

std::string TickText(double value, double spacing, double largest) {
  constexpr std::pair<double, const char*> kSuffixes[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}};
  double scale = 1;
  const char* suffix = "";
  for (const auto& [factor, letter] : kSuffixes) {
    if (largest < factor) continue;
    scale = factor;
    suffix = letter;
    break;
  }
  if (scale == 1 && largest >= 1e4) {
    scale = 1e3;
    suffix = "k";
  }
  if (value == 0) return "0";
  if (largest >= 1e15 || largest < 1e-6) return fmt::format("{:.2g}", value);
  const double digits = -std::floor(std::log10(spacing / scale) + 1e-9);
  return fmt::format("{:.{}f}{}", value / scale, static_cast<int>(std::clamp(digits, 0.0, 9.0)),
                     suffix);
}

bool IsEmpty(const LinePlot& plot) {
  return std::ranges::all_of(plot.lines, [](const PlotLine& line) { return line.points.empty(); });
}

std::string DrawPlot(const LinePlot& plot) {
  const Frame frame = FrameOf(plot);
  std::string svg = fmt::format(
      "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" "
      "role=\"img\">\n<title>{}</title>\n",
      kWidth, kHeight, EscapeMarkup(plot.title));
  svg += Axes(plot, frame);
  for (size_t l = 0; l < plot.lines.size(); ++l) {
    svg += Band(plot.lines[l], frame, l % kPlotColours);
  }
  for (const PlotLevel& level : plot.levels) {
    const double y = frame.Scaled(level.y);
    if (y < frame.y0 || y > frame.y1) continue;
    svg += Line(kLeft, frame.Y(level.y), kWidth - kRight, frame.Y(level.y), " class=\"level\"");
  }
  svg += Marks(plot, frame);
  for (size_t l = 0; l < plot.lines.size(); ++l) {
    svg += Curve(plot.lines[l], frame, l % kPlotColours);
  }
  return svg + "</svg>\n";
}

std::string DrawLegend(const LinePlot& plot) {
  std::string html = "<ul class=\"legend\">";
  for (size_t l = 0; l < plot.lines.size(); ++l) {
    if (plot.lines[l].points.empty()) continue;
    html += fmt::format("<li><i class=\"key-{}\"></i>{}</li>", l % kPlotColours,
                        EscapeMarkup(plot.lines[l].name));
  }
  for (const PlotLevel& level : plot.levels) {
    html += fmt::format("<li><i class=\"key-level\"></i>{} = {:g}</li>", EscapeMarkup(level.name),
                        level.y);
  }
  return html + "</ul>\n";
}

}  // namespace savior
