// Which steps a shard has behind it: when a worker may pull, and how stale what it gets is.
//
// One mechanism for all modes (design: bounded staleness, Ho et al. 2013, "More Effective
// Distributed ML via a Stale Synchronous Parallel Parameter Server"). A worker's push of step t, of
// no rows too, says that it has done t; a pull of step t waits until every worker has done step
// t - 1 - staleness. Staleness 0: a step's pushes are applied together (ps/step_sum.h), so every
// pull of step t sees the rows after exactly t steps. -1: no pull waits.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "common/status.h"
#include "common/store.h"

namespace savior {

inline constexpr int64_t kAsynchronous = -1;

struct StepRules {
  uint32_t workers = 1;    // 1 .. 65535
  int64_t staleness = 0;   // steps, or kAsynchronous
  int64_t first_step = 0;  // the first step of this incarnation of the run

  bool synchronous() const { return staleness == 0; }
};

// A pure state machine. Single-threaded.
class StepClock {
 public:
  // Steps that a worker may be ahead of its own oldest incomplete push.
  static constexpr int64_t kWindow = 64;

  explicit StepClock(const StepRules& rules);

  // Whether a message of a push fits here. kInvalidArgument: no such worker, or no parts.
  // kFailedPrecondition: the step is done already, too far ahead, or (synchronous) not the open
  // one; or its number of parts has changed.
  [[nodiscard]] absl::Status CheckPush(uint32_t worker, int64_t step, uint32_t parts) const;
  // Whether the message that CheckPush let pass is the last one of its step, of all workers.
  bool Completes(uint32_t worker, int64_t step, uint32_t parts) const;
  // One of the `parts` messages of a worker's push of `step` is here.
  void Push(uint32_t worker, int64_t step, uint32_t parts);

  bool MayPull(int64_t step) const;
  // Of a request that has to wait for pushes: kFailedPrecondition if it is for a step that is more
  // than kWindow beyond all that a worker of this run may be at.
  [[nodiscard]] absl::Status CheckAhead(int64_t step) const;
  // A pull of `step` is served now; `held`: it had to wait.
  void CountPull(int64_t step, bool held);

  // All workers' pushes of all steps before this one are here.
  int64_t done() const { return done_; }
  // The lowest-numbered worker that `done` waits for.
  uint32_t slowest() const;
  StepStats stats() const;

 private:
  struct Progress {
    int64_t done = 0;                 // this worker's
    std::deque<uint32_t> here = {};   // messages of step done, done + 1, ...
    std::deque<uint32_t> parts = {};  // of how many
  };

  const StepRules rules_;
  std::vector<Progress> workers_;
  int64_t done_;
  StepStats stats_;
};

}  // namespace savior
