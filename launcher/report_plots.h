// Which figures of a run are drawn together (launcher/line_plot.h), and what is marked in them.
#pragma once

#include <string>
#include <vector>

#include "launcher/line_plot.h"
#include "launcher/run_report.h"

namespace savior {

struct PlotSection {
  std::string title;
  std::string note;  // for the reader; "": none
  std::vector<LinePlot> plots;
};

// Sections and plots without values are left out. All plots have one x axis and all marks.
std::vector<PlotSection> PlotsOf(const RunReport& report);

// What happened to the codebook, by step: switches, rollbacks, refreshes that were given up.
std::vector<PlotMark> MarksOf(const RefreshHistory& history);

}  // namespace savior
