#include "launcher/run_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "launcher/commit.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetricsFile = "metrics.jsonl";
constexpr const char* kCommits = "commits";

// Keys that may differ when a run goes on: they move work or say how much of it to do, and change
// no step's outcome, or only in the order of its sums (cluster.workers, cluster.device).
bool MayDiffer(const std::string& difference) {
  constexpr const char* kFree[] = {"run.",
                                   "commit.",
                                   "eval.",
                                   "export.",
                                   "ps.",
                                   "refresh.",
                                   "security.",
                                   "cluster.servers",
                                   "cluster.workers",
                                   "cluster.device ",
                                   "cluster.interface ",
                                   "cluster.port ",
                                   "cluster.allreduce_timeout_s ",
                                   "cluster.digest_every_steps ",
                                   "cluster.start_timeout_s ",
                                   "cluster.lease_s ",
                                   "cluster.max_restarts ",
                                   "cluster.restart_after_s ",
                                   "data.raw ",
                                   "data.cache ",
                                   "data.prepare",
                                   "data.eval_",
                                   "data.train_until ",  // launcher/grown_log.h has its rules
                                   "train.max_steps ",
                                   "train.epochs ",
                                   "train.metrics_every_s "};
  return std::ranges::any_of(kFree,
                             [&](const char* prefix) { return difference.starts_with(prefix); });
}

absl::Status CheckSameRun(const fs::path& resolved, const Config& config) {
  SAVIOR_ASSIGN_OR_RETURN(const Config former, LoadConfig(resolved.string(), {}));
  std::vector<std::string> differences = DifferentKeys(former, config);
  std::erase_if(differences, MayDiffer);
  if (differences.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} holds a run with another configuration: {}; use the same values or another run.dir",
      resolved.parent_path().string(), fmt::join(differences, ", ")));
}

}  // namespace

RunFolder::RunFolder(fs::path path, std::unique_ptr<FileLock> lock, bool resumed)
    : path_(std::move(path)),
      lock_(std::move(lock)),
      resumed_(resumed),
      log_(path_ / "log"),
      metrics_(path_ / kMetricsFile),
      refreshes_(path_ / kRefreshFile) {}

absl::StatusOr<std::unique_ptr<RunFolder>> RunFolder::Open(const Config& config, bool resume) {
  const fs::path path = config.run.dir;
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(path));
  SAVIOR_ASSIGN_OR_RETURN(auto lock, FileLock::Take(path / "lock"));
  const fs::path resolved = path / kResolvedFile;
  const bool holds_run = fs::exists(resolved);
  if (holds_run) {
    if (!resume) {
      return absl::FailedPreconditionError(fmt::format(
          "{} holds a run already: go on with --resume, or choose another run.dir", path.string()));
    }
    SAVIOR_RETURN_IF_ERROR(CheckSameRun(resolved, config));
  }
  SAVIOR_RETURN_IF_ERROR(RemoveAll(path / "live"));  // an earlier attempt's
  // Before the first commit, which is durable only in a folder that is.
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(path / kCommits));
  if (!holds_run) SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(resolved, ToToml(config)));
  std::unique_ptr<RunFolder> folder(new RunFolder(path, std::move(lock), holds_run));
  if (!folder->metrics_.writable()) {
    return absl::FailedPreconditionError(
        fmt::format("{}: cannot write metrics.jsonl", path.string()));
  }
  return folder;
}

absl::Status RunFolder::SetConfiguration(const Config& config) {
  return WriteFileAtomically(path_ / kResolvedFile, ToToml(config));
}

}  // namespace savior
