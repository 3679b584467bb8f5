// Pictures of what went on at the same time: for a terminal, and as SVG.
#pragma once

#include <string>
#include <vector>

namespace savior {

// Seconds from the chart's start. Bars of a lane may lie over each other: later ones on top.
struct Bar {
  double begin = 0, end = 0;
  char letter = ' ';  // what it is: same letter, same colour
};

struct Lane {
  std::string name;
  std::vector<Bar> bars;
};

struct StepChart {
  std::string title;
  double seconds = 0;
  std::vector<Lane> lanes;
};

struct LegendEntry {
  char letter;
  std::string colour;  // of SVG
  std::string meaning;
};

// One line per lane, `columns` letters wide.
std::string DrawText(const StepChart& chart, size_t columns);

// All of them, one below the other on one scale, above the legend.
std::string DrawSvg(const std::vector<StepChart>& charts, const std::vector<LegendEntry>& legend);

}  // namespace savior
