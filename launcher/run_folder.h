// A run's folder: who may write into it, and what lies where.
//
//   <run>/resolved.toml  metrics.jsonl  refresh.jsonl  result.json  log  commits/
//         live/          the shards' working files, disposable (or in ps.live_dir)
#pragma once

#include <filesystem>
#include <memory>

#include "common/config.h"
#include "common/files.h"
#include "common/status.h"
#include "launcher/json_lines.h"
#include "launcher/log_file.h"

namespace savior {

inline constexpr const char* kRefreshFile = "refresh.jsonl";

// Exclusive while it lives. Single-threaded.
class RunFolder {
 public:
  // kFailedPrecondition: another process has it; or it holds a run and `resume` is false; or
  // `resume` is true and the configuration differs from that run's in a key that changes the
  // outcome (all such keys are named). A run that is resumed keeps its resolved.toml until
  // SetConfiguration.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RunFolder>> Open(const Config& config,
                                                                       bool resume);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path commits() const { return path_ / "commits"; }
  std::filesystem::path predictions() const { return path_ / "predictions.parquet"; }
  std::filesystem::path result() const { return path_ / "result.json"; }
  bool resumed() const { return resumed_; }  // it held a run already

  // The run goes on with `config`. Not before all that could refuse it has been asked.
  [[nodiscard]] absl::Status SetConfiguration(const Config& config);

  JsonLines& metrics() { return metrics_; }
  JsonLines& refreshes() { return refreshes_; }

 private:
  RunFolder(std::filesystem::path path, std::unique_ptr<FileLock> lock, bool resumed);

  const std::filesystem::path path_;
  const std::unique_ptr<FileLock> lock_;
  const bool resumed_;
  const LogFile log_;
  JsonLines metrics_;    // metrics.jsonl
  JsonLines refreshes_;  // refresh.jsonl: what became of each refresh of the codebook
};

}  // namespace savior
