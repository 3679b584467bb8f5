// Refreshes of a run's codebook: what RefreshFlow says, done by this worker (docs/refresh.md).
//
// Building goes on in a thread of its own (worker/refresh/refresh_job.h); training stands still
// for two moments, at T0, when the lead copies a few rows, and at the switch.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "common/config.h"
#include "common/status.h"
#include "launcher/commit.h"
#include "launcher/json_lines.h"
#include "launcher/refresh_flow.h"
#include "launcher/refresh_request.h"
#include "launcher/run_commits.h"
#include "launcher/run_inputs.h"
#include "launcher/run_place.h"
#include "launcher/run_store.h"
#include "worker/content.h"
#include "worker/refresh/drift_monitor.h"
#include "worker/refresh/refresh_job.h"
#include "worker/trainer.h"

namespace savior {

// What a refresh works on; all outlive it.
struct RefreshWorld {
  const Config* config = nullptr;
  const RunInputs* inputs = nullptr;
  RunPlace* place = nullptr;
  RunStore* store = nullptr;
  Trainer* trainer = nullptr;
  CodebookState* state = nullptr;  // the run's; changed by switches
  // The lead's.
  Content* content = nullptr;
  RunCommits* commits = nullptr;
  JsonLines* events = nullptr;
  std::filesystem::path run = {};
};

// Single-threaded. All workers make the same calls in the same order.
class RunRefresh {
 public:
  explicit RunRefresh(const RefreshWorld& world);
  // Gives up what is being built.
  ~RunRefresh();
  RunRefresh(const RunRefresh&) = delete;
  RunRefresh& operator=(const RunRefresh&) = delete;

  // Adds this worker's wishes for the next step. `committing`: a commit is under way; a switch
  // waits for its end.
  void AddWishes(bool committing, StepWishes* wishes);

  // After a step, with what all workers wished in it. True: the run has switched to another version
  // after this step, and a commit has to be made before the next one. `committed`: step of the
  // newest commit. Errors end the run; a refresh that fails does not.
  [[nodiscard]] absl::StatusOr<bool> AfterStep(const StepFigures& figures, int64_t committed);

  // The whole of it at once, between steps: savior refresh of a run that stands still. True as
  // above; false: a gate was not passed, `why` says which.
  [[nodiscard]] absl::StatusOr<bool> Now(std::string* why);

  // The commit that a rollback needs; empty: none.
  std::filesystem::path pinned() const;
  nlohmann::ordered_json ToJson() const;

 private:
  struct Job;

  bool lead() const { return world_.place->lead(); }
  bool HasCodebook() const;
  bool HasPrefixes() const;
  // kFailedPrecondition: why this run cannot have another codebook.
  absl::Status CanBuild() const;
  // The lead: a person asks for a rollback that can be done.
  bool RollbackAsked();
  // The lead, at the end of a day of training data: looks for drift.
  absl::Status Observe(int64_t data_time);
  absl::Status Begin();
  // Whether this worker's part has ended; "busy", "ok" or what is wrong.
  std::string Report() const;
  absl::StatusOr<bool> Judge();
  absl::Status Switch();
  absl::StatusOr<int64_t> CarryPrefixes(const RefreshResult& result);
  void Keep(RefreshResult* result);
  void Abort(const std::string& why);
  void Retire();
  void EndJob();
  void Event(const char* state, nlohmann::ordered_json figures = nlohmann::ordered_json::object());
  // Answers a request that has come true, or cannot.
  void AnswerRequest(int64_t committed);
  const RefreshRequest* Request();

  const RefreshWorld world_;
  RefreshFlow flow_;
  uint32_t version_ = 0;  // being built
  std::unique_ptr<Job> job_;
  bool given_up_ = false;                  // a refresh of this process's
  std::string verdict_;                    // of the last job; "": good
  std::optional<RefreshRequest> request_;  // the lead's, as last seen
  SteadyClock::time_point looked_;
  // The lead's: of the codebook in use.
  std::unique_ptr<DriftMonitor> monitor_;
  int64_t day_ = -1;     // of the latest training data
  std::string drifted_;  // which bound is passed; "": none
  std::string why_;      // the refresh that it wishes: "by hand", "drift: ..."
};

}  // namespace savior
