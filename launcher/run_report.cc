#include "launcher/run_report.h"

#include <fmt/format.h>

#include <system_error>
#include <utility>

#include "common/files.h"
#include "launcher/metrics_file.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

bool IsRunning(const fs::path& run) {
  std::error_code error;
  // Only where there is a lock to take: looking changes nothing in the folder.
  return fs::exists(run / "lock", error) && !FileLock::Take(run / "lock").ok();
}

absl::StatusOr<nlohmann::ordered_json> ReadResult(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error) && !error) return nlohmann::ordered_json();
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  return absl::DataLossError(fmt::format(
      "{}: no JSON object: it is damaged; savior evaluate says the result again, and without that "
      "file the report has none",
      path.string()));
}

// Those that a running job deletes meanwhile are left out.
std::vector<ReportedCommit> ReadCommits(const fs::path& folder) {
  std::vector<ReportedCommit> commits;
  for (const fs::path& path : ListCommits(folder)) {
    absl::StatusOr<Commit> commit = OpenCommit(path, /*digests=*/false);
    if (commit.ok()) {
      commits.push_back({path, std::move(commit->manifest), ""});
    } else if (fs::exists(path)) {
      commits.push_back({path, std::nullopt, std::string(commit.status().message())});
    }
  }
  return commits;
}

absl::StatusOr<RunMetrics> ReadMetrics(const fs::path& path, const RefreshHistory& refreshes,
                                       size_t most_points) {
  SAVIOR_ASSIGN_OR_RETURN(MetricsFile file, MetricsFile::Open(path));
  RunMetrics metrics;
  metrics.lines = file.lines();
  metrics.restarts = file.restarts();
  if (file.empty()) return metrics;
  metrics.first_step = file.first_step();
  metrics.last_step = file.last_step();
  const BinnedSeries none(metrics.first_step, metrics.last_step, most_points);
  std::vector<BinnedSeries> series;  // by number of name
  SwitchWindows windows(refreshes,
                        SwitchWindows::StepsFor(metrics.last_step - metrics.first_step + 1));
  SAVIOR_RETURN_IF_ERROR(file.ForEach([&](const MetricsLine& line) {
    windows.Add(line, file.names());
    if (line.superseded) return absl::OkStatus();
    series.resize(std::max(series.size(), file.names().size()), none);
    for (const MetricsValue& value : line.values) series[value.name].Add(line.step, value.value);
    return absl::OkStatus();
  }));
  for (size_t n = 0; n < series.size(); ++n) metrics.series[file.names()[n]] = series[n].Points();
  metrics.window_steps = windows.steps();
  metrics.windows = windows.Figures(file.names());
  return metrics;
}

}  // namespace

const CommitManifest* RunReport::newest() const {
  for (auto commit = commits.rbegin(); commit != commits.rend(); ++commit) {
    if (commit->manifest) return &*commit->manifest;
  }
  return nullptr;
}

absl::StatusOr<RunReport> ReadRunReport(const fs::path& run, size_t most_points) {
  std::error_code error;
  if (!fs::exists(run / kResolvedFile, error)) {
    return absl::NotFoundError(
        fmt::format("{}: no run there (no {} in it)", run.string(), kResolvedFile));
  }
  RunReport report;
  report.run = run;
  SAVIOR_ASSIGN_OR_RETURN(report.config, LoadConfig((run / kResolvedFile).string(), {}));
  report.running = IsRunning(run);
  SAVIOR_ASSIGN_OR_RETURN(report.result, ReadResult(run / "result.json"));
  report.commits = ReadCommits(run / "commits");
  SAVIOR_ASSIGN_OR_RETURN(report.refreshes, ReadRefreshHistory(run, report.newest()));
  SAVIOR_ASSIGN_OR_RETURN(report.metrics,
                          ReadMetrics(run / "metrics.jsonl", report.refreshes, most_points));
  return report;
}

}  // namespace savior
