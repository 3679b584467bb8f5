#include "launcher/refresh_command.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "common/files.h"
#include "launcher/commit.h"
#include "launcher/grown_log.h"
#include "launcher/refresh_request.h"
#include "launcher/refresh_rollback.h"
#include "launcher/run_commands.h"
#include "launcher/run_folder.h"
#include "launcher/run_inputs.h"
#include "launcher/run_refresh.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kLook{500};

// The state of the newest commit; without digests: a running job writes commits and checks them.
absl::StatusOr<CodebookState> StateOf(const fs::path& run) {
  if (!fs::exists(run / kResolvedFile)) {
    return absl::NotFoundError(fmt::format("{}: no run there", run.string()));
  }
  const std::vector<fs::path> commits = ListCommits(run / "commits");
  if (commits.empty()) {
    return absl::NotFoundError(fmt::format("{}: the run has no commit yet", run.string()));
  }
  SAVIOR_ASSIGN_OR_RETURN(const Commit newest, OpenCommit(commits.back(), /*digests=*/false));
  return newest.manifest.codebook;
}

std::string LastLine(const fs::path& file) {
  std::ifstream in(file);
  std::string line, last;
  while (std::getline(in, line)) last = line;
  return last;
}

absl::Status AskAndWait(const fs::path& run, const RefreshRequest& request, bool wait,
                        std::ostream& out) {
  SAVIOR_RETURN_IF_ERROR(AskForRefresh(run, request));
  const fs::path events = run / kRefreshFile;
  out << fmt::format(
      "asked the running job of {} for codebook version {}; what becomes of it: {}\n", run.string(),
      request.version, events.string());
  if (!wait) return absl::OkStatus();
  while (true) {
    SAVIOR_ASSIGN_OR_RETURN(const auto waiting, ReadRefreshRequest(run));
    if (!waiting) break;
    if (FileLock::Take(run / "lock").ok()) {
      return absl::FailedPreconditionError(fmt::format(
          "{}: the job has ended before it answered; it will when it goes on", run.string()));
    }
    std::this_thread::sleep_for(kLook);
  }
  const std::string answer = LastLine(events);
  out << answer << "\n";
  const bool refused = answer.find("\"ABORTED\"") != std::string::npos ||
                       answer.find("\"REFUSED\"") != std::string::npos;
  return refused ? absl::FailedPreconditionError(run.string() + ": not done: " + answer)
                 : absl::OkStatus();
}

// As it stands there, with run.dir where the run is now, if it was copied.
absl::StatusOr<Config> ConfigOf(const fs::path& run, std::vector<std::string> overrides) {
  overrides.push_back("run.dir=" + run.string());
  return LoadConfig((run / kResolvedFile).string(), overrides);
}

absl::Status RollBackNow(const fs::path& run, const CodebookState& state, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const Config config, ConfigOf(run, {}));
  SAVIOR_ASSIGN_OR_RETURN(const RunInputs inputs, RunInputs::Open(config));
  SAVIOR_RETURN_IF_ERROR(RollBackCodebook(
      run, state.previous, [&](const Commit& at) { return CheckGoesOn(at, config, inputs); }));
  const absl::Status added =
      JsonLines(run / kRefreshFile).Add(RollbackEvent(state.previous, state.since_step));
  LOG_IF(WARNING, !added.ok()) << "a line of refresh.jsonl is lost: " << added.message();
  out << fmt::format("{}: codebook version {} is in use again, at step {}\n", run.string(),
                     state.previous, state.since_step);
  return absl::OkStatus();
}

absl::Status RefreshNow(const RefreshArguments& arguments, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const Config config, ConfigOf(arguments.run, arguments.overrides));
  RunOptions options;
  options.resume = true;
  options.refresh_now = true;
  return Train(config, options, out).status();
}

}  // namespace

void AddRefresh(CLI::App& app, RefreshArguments& arguments) {
  CLI::App* refresh = app.add_subcommand(
      "refresh", "Gives a run the next version of its codebook, while it trains or stands still");
  refresh->footer(
      "Examples:\n"
      "  savior refresh runs/mine                 a running job goes on meanwhile\n"
      "  savior refresh runs/mine --wait          and this command waits for the outcome\n"
      "  savior refresh runs/mine --rollback      back to the version before, in its probation\n"
      "Guide: docs/refresh.md");
  refresh->add_option("run", arguments.run, "Run folder")->required();
  refresh->add_option("overrides", arguments.overrides,
                      "refresh.key=value ..., for a run that stands still; they stay the run's");
  refresh->add_flag("--rollback", arguments.rollback,
                    "Back to the commit of the last switch, with the version before it");
  refresh->add_flag("--wait", arguments.wait, "Wait until a running job has answered");
}

absl::Status RefreshCodebook(const RefreshArguments& arguments, std::ostream& out) {
  const fs::path run = arguments.run;
  SAVIOR_ASSIGN_OR_RETURN(const CodebookState state, StateOf(run));
  if (arguments.rollback && !state.probation) {
    return absl::FailedPreconditionError(fmt::format(
        "{}: codebook version {} is in use; there is nothing to go back to: no switch, or its "
        "probation (refresh.probation_steps) is over",
        run.string(), state.version));
  }
  {
    absl::StatusOr<std::unique_ptr<FileLock>> lock = FileLock::Take(run / "lock");
    if (!lock.ok()) {
      if (!arguments.overrides.empty()) {
        return absl::InvalidArgumentError(
            "key=value is for a run that stands still: a running job has its configuration");
      }
      const RefreshRequest request =
          arguments.rollback ? RefreshRequest{RefreshRequest::What::kRollback, state.previous}
                             : RefreshRequest{RefreshRequest::What::kRefresh, state.version + 1};
      return AskAndWait(run, request, arguments.wait, out);
    }
    if (arguments.rollback) return RollBackNow(run, state, out);
  }
  return RefreshNow(arguments, out);
}

}  // namespace savior
