// What became of each refresh of a run's codebook, told by refresh.jsonl and the newest commit.
//
// refresh.jsonl has a line per state (launcher/run_refresh.cc), and says what was so when it was
// written: a process that dies takes back what was not committed, and the run that goes on writes
// its lines again. So a refresh that begins anew with the same version makes the one before it
// interrupted, and where the newest commit differs from the lines, the commit is right.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "launcher/commit.h"

namespace savior {

// A line of refresh.jsonl.
struct RefreshEvent {
  std::string state;            // BUILDING, PREPARED, ACTIVE, RETIRED, ABORTED, ROLLED_BACK
  std::optional<int64_t> step;  // after which it was so; old lines may lack it
  std::optional<int64_t> time;  // unix seconds, likewise
  std::optional<double> stood_still_ms;  // training did
};

struct RefreshLevel {
  double perplexity = 0, dead = 0, largest_share = 0, churn = 0;
};

// Of the codes built (worker/refresh/refresh_job.h); absent where the lines do not say.
struct RefreshOutcome {
  std::vector<RefreshLevel> levels;
  std::optional<double> contents, rq_mse_before, rq_mse, preserved_r2, auc_before, auc_after, cpu_s,
      wall_s;
};

// An attempt at a version.
struct CodebookRefresh {
  enum class Fate {
    kBuilding,     // or prepared, as far as the lines go
    kUncommitted,  // in use, and no commit says so yet: a run that is killed now takes it back
    kProbation,    // in use; the version before can come back
    kActive,       // in use, for good
    kKept,         // was in use before the version that is on probation, and can come back
    kRetired,      // was in use until a later version was
    kRolledBack,   // was in use, and undone
    kAborted,      // never in use; `why_not` says why
    kInterrupted,  // the run ended before it was durable
  };

  uint32_t version = 0;
  Fate fate = Fate::kBuilding;
  std::string why;                  // "by hand", "drift: ...", "refresh.at_step"; "": not known
  std::string why_not;              // of kAborted
  std::optional<int64_t> switched;  // the step after which it was in use
  std::vector<RefreshEvent> events;
  RefreshOutcome outcome;
};

struct RefreshHistory {
  std::vector<CodebookRefresh> refreshes;  // in the order of their beginnings
  std::vector<std::string> refused;        // requests, and why
  // Of the version that the run began with.
  CodebookRefresh::Fate first = CodebookRefresh::Fate::kActive;
};

// "active", "rolled back", ...
const char* NameOf(CodebookRefresh::Fate fate);

// `lines` as ReadJsonLines reads refresh.jsonl; `newest`: the newest commit, null: there is none.
RefreshHistory TellRefreshes(const std::vector<nlohmann::ordered_json>& lines,
                             const CommitManifest* newest);

// The same, of a run's folder. Errors: ReadJsonLines'.
[[nodiscard]] absl::StatusOr<RefreshHistory> ReadRefreshHistory(const std::filesystem::path& run,
                                                                const CommitManifest* newest);

// Of `codes`, the share that some content has.
double Utilisation(const RefreshLevel& level, int64_t codes);

}  // namespace savior
