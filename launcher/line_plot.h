// Figures over the steps of a run as a line plot: inline SVG, coloured by the page that it is in.
//
// Classes that the page has to style: .plot text, .grid, .axis, .mark; .line-<n>, .band-<n> and
// .dot-<n>, n < kPlotColours, for series; .level for bounds; .mark-<kind> for what happened.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launcher/binned_series.h"

namespace savior {

inline constexpr size_t kPlotColours = 8;

struct PlotLine {
  std::string name;
  std::vector<SeriesPoint> points;  // by step
  bool dots = false;                // things that happen now and then: no line between them
};

// A bound: drawn dashed, if it is not far from the lines.
struct PlotLevel {
  std::string name;
  double y = 0;
};

// What happened at a step.
struct PlotMark {
  double step = 0;
  std::string kind;  // of its class: "switch", "rollback", "abort"
  std::string text;  // a word above the plot, where there is room
  std::string more;  // shown when pointed at
};

struct LinePlot {
  std::string title;
  std::string unit;  // of the y axis: "steps/s", "MiB"; "": none
  std::vector<PlotLine> lines;
  std::vector<PlotLevel> levels;
  std::vector<PlotMark> marks;  // those within first_step..last_step are drawn
  // The x axis, so that plots below each other have one.
  double first_step = 0, last_step = 1;
  bool from_zero = false;
  bool log = false;  // values that are not positive are left out
};

bool IsEmpty(const LinePlot& plot);

// The picture, <svg>...</svg>: well-formed XML, some 30 bytes a point.
std::string DrawPlot(const LinePlot& plot);
// What its colours mean: <ul class="legend">...</ul>.
std::string DrawLegend(const LinePlot& plot);

// Multiples of 1, 2 or 5 times a power of ten in [low, high], low < high, at most `most` >= 2 or
// so.
std::vector<double> RoundTicks(double low, double high, int most);
// `value`, one of several that lie `spacing` apart, the largest of them about `largest`: "0.45",
// "1.5M".
std::string TickText(double value, double spacing, double largest);

}  // namespace savior
