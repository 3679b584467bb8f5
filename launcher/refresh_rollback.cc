#include "launcher/refresh_rollback.h"

#include <absl/time/clock.h>
#include <fmt/format.h>

#include <system_error>
#include <vector>

#include "common/failpoint.h"
#include "common/files.h"

namespace savior {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json RollbackEvent(uint32_t version, int64_t step) {
  return {{"step", step},
          {"state", "ROLLED_BACK"},
          {"version", version},
          {"time", absl::ToUnixSeconds(absl::Now())}};
}

absl::Status RollBackCodebook(const fs::path& run, uint32_t version,
                              absl::FunctionRef<absl::Status(const Commit&)> fits) {
  const fs::path commits = run / "commits";
  SAVIOR_ASSIGN_OR_RETURN(const Commit newest, NewestCommit(commits));
  const CodebookState& state = newest.manifest.codebook;
  if (state.version == version) return absl::OkStatus();
  if (!state.probation || state.previous != version) {
    return absl::FailedPreconditionError(fmt::format(
        "{}: codebook version {} is in use, and no version {} to go back to is kept: probation "
        "(refresh.probation_steps) is over",
        newest.folder.string(), state.version, version));
  }
  const int64_t since = state.since_step;
  SAVIOR_ASSIGN_OR_RETURN(const Commit at, OpenCommit(CommitFolder(commits, since), true));
  if (at.manifest.codebook != state) {
    return absl::DataLossError(
        fmt::format("{}: not the commit of the switch to codebook version {}", at.folder.string(),
                    state.version));
  }
  SAVIOR_RETURN_IF_ERROR(fits(at));
  std::vector<fs::path> newer = ListCommits(commits);
  std::erase_if(newer, [&](const fs::path& folder) { return folder <= at.folder; });
  // From the newest down: at any instant the newest commit is in this probation, so that whoever
  // goes on finds the rollback to be done.
  for (auto folder = newer.rbegin(); folder != newer.rend(); ++folder) {
    SAVIOR_FAILPOINT("refresh.before_rollback_removal");
    // Out of sight first: half a commit must not have a commit's name.
    fs::path unfinished = *folder;
    unfinished += ".part";
    std::error_code error;
    fs::rename(*folder, unfinished, error);
    if (error) {
      return absl::InternalError(fmt::format("{}: {}", folder->string(), error.message()));
    }
    SAVIOR_RETURN_IF_ERROR(RemoveAll(unfinished));
  }
  SAVIOR_FAILPOINT("refresh.before_rollback");
  return RepublishCommit(
             commits, since,
             [](CommitManifest* manifest) { manifest->codebook = RolledBack(manifest->codebook); })
      .status();
}

}  // namespace savior
