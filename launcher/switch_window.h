// What metrics.jsonl says shortly before and shortly after a switch to another codebook version.
//
// A line counts for the version that it was written under: before, the version left; after, the new
// one. So what was measured after a switch that was rolled back later still is what came of it,
// although the run has done those steps again. Of a step that is there twice under the same
// version, the later line counts.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launcher/metrics_file.h"
#include "launcher/refresh_history.h"

namespace savior {

// A mean over the lines of the window; of what is measured on impressions, weighted by them.
struct WindowFigure {
  std::string name;  // "loss_ctr", "progressive.new.auc"
  std::optional<double> before, after;
};

struct SwitchWindow {
  int64_t step = 0;  // the switch comes after it
  uint32_t version = 0;
  size_t lines_before = 0, lines_after = 0;
  std::vector<WindowFigure> figures;
};

// Single-threaded. Memory: a line's figures per step, window and side.
class SwitchWindows {
 public:
  // Windows of `steps` steps on either side of every switch in `history`, rolled back or not.
  SwitchWindows(const RefreshHistory& history, int64_t steps);

  // Lines in their order; superseded ones, too.
  void Add(const MetricsLine& line, const std::vector<std::string>& names);

  // By switch, as in `history`.
  std::vector<SwitchWindow> Figures(const std::vector<std::string>& names) const;

  int64_t steps() const { return steps_; }
  // A round number of steps, about a twentieth of `run_steps`.
  static int64_t StepsFor(int64_t run_steps);

 private:
  using Side = std::map<int64_t, std::vector<MetricsValue>>;  // by step

  struct Window {
    int64_t step = 0;
    uint32_t version = 0;
    Side before, after;
  };

  // Or says nothing of `name`.
  static bool Says(const MetricsLine& line, std::optional<size_t> name, double wanted);
  static std::optional<double> MeanOf(const Side& side, size_t name, std::optional<size_t> weight);

  const int64_t steps_;
  std::vector<Window> windows_;
  std::vector<bool> wanted_;               // by number of name
  std::optional<size_t> version_, since_;  // numbers of "codebook.version", "codebook.since_step"
};

}  // namespace savior
