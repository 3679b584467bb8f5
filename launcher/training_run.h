// A training run as one of its workers sees it: data, content, tables, the loop of steps, commits,
// evaluation. The same in one process and in many (launcher/run_place.h).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/digest_cache.h"
#include "common/status.h"
#include "launcher/grown_log.h"
#include "launcher/publisher.h"
#include "launcher/run_commits.h"
#include "launcher/run_folder.h"
#include "launcher/run_inputs.h"
#include "launcher/run_place.h"
#include "launcher/run_refresh.h"
#include "launcher/step_times.h"
#include "worker/content.h"
#include "worker/eval/evaluation.h"
#include "worker/eval/item_facts.h"
#include "worker/trainer.h"

namespace savior {

struct RunOptions {
  bool resume = false;
  // Set by a signal: stop after the step, commit, return kCancelled.
  const std::atomic<bool>* stop = nullptr;
  // Called once there are steps to stop between and a state to commit. Before, a signal should end
  // the process at once: nothing is lost, since nothing was trained.
  std::function<void()> before_first_step = {};
  // Instead of training: the next codebook version, now, and a commit with it. kFailedPrecondition:
  // a gate was not passed.
  bool refresh_now = false;
  // Called after every step, with its number: for benches.
  std::function<void(int64_t step, const StepFigures& figures)> after_step = {};
  // savior, which exports bundles (export.dir) as a process of its own.
  std::string program = "/proc/self/exe";
};

struct Scores {
  Predictions predictions;
  ItemFacts facts;
  EvalResult result;
};

// Scores the evaluation period, the batches shared out to `workers`. Results are the lead's; the
// others get empty ones.
[[nodiscard]] absl::StatusOr<Scores> Score(const RunInputs& inputs, Group* workers,
                                           Trainer* trainer);

// Everything of a run that is alive at once. Members in the order in which they come to be;
// destroyed backwards. Single-threaded.
class TrainingRun {
 public:
  // place and out outlive it.
  TrainingRun(const Config& config, const RunOptions& options, RunPlace* place, std::ostream& out)
      : config_(config), options_(options), place_(*place), out_(out) {}

  // The result is the lead's. kCancelled when stopped: the message says how to go on. kAborted: the
  // codebook was rolled back as asked, and the run has to start again, with options.resume.
  [[nodiscard]] absl::StatusOr<EvalResult> Run();

 private:
  absl::StatusOr<EvalResult> Work();
  absl::Status Open();
  // The lead's: takes the run's folder, and says from what the run starts.
  absl::StatusOr<RunStart> OpenFolder();
  // From `commit`, the newest one.
  absl::StatusOr<RunStart> GoOn(const Commit& commit);
  absl::StatusOr<RunStart> StartAfresh();
  absl::Status OpenTables();
  absl::Status Restore();
  absl::Status OpenCommits();
  // Whether all workers have the same of something; `what` names it.
  absl::Status CheckSame(const std::string& what, const std::string& mine);
  absl::Status OpenRefresh();
  absl::Status TrainLoop();
  absl::StatusOr<EvalResult> RefreshNow();
  // After a step in which a worker wished it.
  absl::Status RollBack();
  // Deletes what a rollback that was asked for has to delete, before a commit is chosen.
  absl::Status FinishRollback();
  absl::Status AfterStep(const StepFigures& figures);
  absl::Status WriteMetrics(const StepFigures& figures);
  // With eval.progressive: what the lead's own scores since the last line are worth, by bucket.
  absl::StatusOr<nlohmann::ordered_json> ProgressiveFigures();
  // CPU time that the servers' processes have used so far.
  absl::StatusOr<double> ServerCpuSeconds();
  // What the steps cost every process of the run; what `processes_` and `train_cpu_s_` get.
  absl::Status GatherCosts();
  // All workers do: begins a commit, after the one before has ended. It is written while training
  // goes on, and SettleCommit says what became of it. A full disk is no error but `not_committed_`,
  // at all of them: the commit before stays, training may go on, and the next call tries again.
  // Other errors end the run.
  absl::Status BeginCommit();
  // All workers do: waits for the commit under way, if there is one, and agrees on what became of
  // it. No worker's pushes are under way when it returns.
  absl::Status SettleCommit();
  // The lead's.
  CommitContents ContentsOfCommit();
  // Commits that stay, however old: what is exported, and what a rollback goes back to.
  std::vector<std::filesystem::path> PinnedCommits() const;
  absl::Status TakeCommit(bool wait);
  void NotCommitted(int64_t step, const absl::Status& why);
  absl::StatusOr<EvalResult> Finish();
  absl::Status WriteResult(const Scores& scores);
  // The last bundle; all workers wait for it.
  absl::Status PublishLast();
  bool lead() { return place_.lead(); }
  bool StopAsked() const { return options_.stop && options_.stop->load(); }
  StepWishes Wishes() const;

  const Config config_;
  const RunOptions options_;
  RunPlace& place_;
  std::ostream& out_;
  std::unique_ptr<RunFolder> folder_;  // the lead's
  RunInputs inputs_;
  RunStart start_;
  // The lead's: the commit that start_ names, the log compared with its log, and the ends of the
  // training period so far.
  std::optional<Commit> restored_;
  GrownLog log_;
  std::vector<int64_t> trained_until_;
  std::unique_ptr<RunStore> store_;
  DigestCache digests_;                  // of files of commits
  std::unique_ptr<RunCommits> commits_;  // the lead's
  Content content_;                      // the lead's
  // In use; at other workers than the lead only its version.
  CodebookState codebook_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<RunRefresh> refresh_;
  std::unique_ptr<Publisher> publisher_;  // the lead's, with export.dir

  bool stopped_ = false;
  bool rolling_back_ = false;  // and stopped
  int64_t samples_ = 0;        // impressions since step 0
  // Of the newest commit; other workers than the lead know it after SettleCommit.
  int64_t committed_step_ = -1;
  int64_t begun_step_ = -1;     // of the commit under way, or ended and not agreed on; -1: none
  absl::Status not_committed_;  // kResourceExhausted: why the last BeginCommit made none
  Deadline commit_due_;         // the lead's: by commit.interval_s
  SteadyClock::time_point train_start_;
  double train_cpu_start_ = 0;
  int64_t samples_start_ = 0;  // at train_start_
  double server_cpu_start_ = 0;
  double train_wall_s_ = 0;
  double train_cpu_s_ = 0;  // of all processes
  StepTimes step_times_;    // of this worker
  nlohmann::ordered_json processes_;
  // Since the last line of metrics.
  SteadyClock::time_point last_metrics_;
  double last_cpu_ = 0, last_server_cpu_ = 0;
  StepTimes last_step_times_;
  int64_t last_samples_ = 0;
  int64_t last_commits_ = 0;        // begun
  double last_commit_pause_s_ = 0;  // the longest that training stood still for one of them
  int64_t last_scored_ = 0;         // rows of trainer_->scored_so_far() that were told of before
  std::optional<ItemFacts> facts_;  // for them
  RankerLosses mean_;               // exponential means, for people
};

}  // namespace savior
