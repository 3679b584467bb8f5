// Everything that a run has left behind and that its report shows (launcher/report_page.h), read
// from its folder; a running job goes on meanwhile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "launcher/binned_series.h"
#include "launcher/commit.h"
#include "launcher/refresh_history.h"
#include "launcher/switch_window.h"

namespace savior {

// Of metrics.jsonl.
struct RunMetrics {
  int64_t lines = 0, restarts = 0;
  int64_t first_step = 0, last_step = 0;                   // of those that hold; lines > 0
  std::map<std::string, std::vector<SeriesPoint>> series;  // by name (MetricsFile::names)
  int64_t window_steps = 0;
  std::vector<SwitchWindow> windows;
};

struct ReportedCommit {
  std::filesystem::path folder;
  std::optional<CommitManifest> manifest;  // none: damaged
  std::string damage;
};

// NOLINTNEXTLINE(bugprone-exception-escape): a JSON object's move may only fail by an assertion.
struct RunReport {
  std::filesystem::path run;
  Config config;
  bool running = false;                  // some process has the folder
  nlohmann::ordered_json result;         // result.json; null: there is none yet
  std::vector<ReportedCommit> commits;   // by step
  const CommitManifest* newest() const;  // the newest that is whole; null: none
  RunMetrics metrics;
  RefreshHistory refreshes;
};

// Metrics are brought down to `most_points` per series. kNotFound: no run there; kDataLoss names
// the file that is damaged, and the line.
[[nodiscard]] absl::StatusOr<RunReport> ReadRunReport(const std::filesystem::path& run,
                                                      size_t most_points = 500);

}  // namespace savior
