// The way of a codebook refresh through a run, as each of its workers sees it: which step follows
// which. Every worker has a flow of its own and gives it the same votes after the same steps, so
// all are in the same state without a message (docs/refresh.md).
//
//   idle --a vote--> BUILDING --all have built, gates passed--> READY, PREPARED --next step-->
//   ACTIVE
//                       |                                                                         |
//                       +-- a gate, a vote, trouble --> ABORTED: idle         idle: RETIRED <-----+
//                                                                        probation_steps later
//
// Up to ACTIVE nothing is durable but what nobody reads: a run that dies starts again from a commit
// of the old version, and from one of the new version after. Knows no threads, sockets or files.
#pragma once

#include <cstdint>

namespace savior {

enum class RefreshState { kIdle, kBuilding, kPrepared, kProbation };

// What the workers said in a step: true if any of them did.
struct RefreshVotes {
  bool begin = false;    // the lead: a refresh is due
  bool busy = false;     // this worker's part is still being built
  bool give_up = false;  // this worker's part has failed, or the lead wants no more of it
  bool operator==(const RefreshVotes&) const = default;
};

enum class RefreshAction {
  kNone,
  kBegin,    // copy what is needed of this moment, start building
  kJudge,    // wait until all have built, compare verdicts, say Judged
  kPrepare,  // contents have new codes: what is cached of them is old
  kSwitch,   // to the new version, at all workers and shards; then a commit
  kAbort,    // stop building; nothing has changed
  kRetire,   // the old version is given up: no rollback from now on
};

// Single-threaded.
class RefreshFlow {
 public:
  struct Options {
    int64_t switch_after_steps = 0;  // 0: as soon as all have built
    int64_t probation_steps = 0;
  };

  explicit RefreshFlow(const Options& options) : options_(options) {}
  // A run that goes on from a commit in probation since step `since`.
  void StartInProbation(int64_t since);

  // What to do after `step` steps are done.
  RefreshAction AfterStep(int64_t step, const RefreshVotes& votes);
  // After kJudge: whether all agree that the new version is good. What to do: kPrepare, kSwitch
  // (training waited for its step) or kAbort.
  RefreshAction Judged(bool good);

  RefreshState state() const { return state_; }
  // Of the refresh under way or in probation: the step that it began or switched at.
  int64_t since() const { return since_; }

 private:
  RefreshAction Abort();

  const Options options_;
  RefreshState state_ = RefreshState::kIdle;
  int64_t since_ = -1;
  int64_t step_ = 0;
};

}  // namespace savior
