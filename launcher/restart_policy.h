// When `savior launch` starts, stops and gives up: the decisions alone, without processes or
// clocks.
#pragma once

#include <chrono>
#include <cstdint>

#include "common/clock.h"

namespace savior {

struct RestartLimits {
  int64_t in_a_row = 10;  // restarts without a new commit; cluster.max_restarts
  SteadyClock::duration first_wait = std::chrono::seconds(1);  // cluster.restart_after_s
  SteadyClock::duration longest_wait = std::chrono::seconds(60);
};

// How an attempt, one run of mpirun or srun, ended.
struct AttemptEnd {
  int code = 0;               // exit status; 128 + n: signal n
  int64_t newest_commit = 0;  // its step; -1: there is none
  bool finished = false;      // the result was written in this attempt
};

enum class Outcome {
  kFinished,
  kStopped,     // as asked, after a commit, or before there was anything to commit
  kStopFailed,  // asked to stop, but ended with an error: the last commit is what is left
  kKilled,      // by the second request
  kBadInput,    // no restart can mend it
  kGaveUp,      // too many restarts in a row
};

struct Action {
  enum class Kind { kNone, kStart, kAskToStop, kKill, kEnd };
  Kind kind = Kind::kNone;
  Outcome outcome = Outcome::kFinished;  // of kEnd
};

// A state machine: waiting -> running -> waiting ... -> ended. What it sees of the world are its
// arguments. A failed attempt is followed by another after a wait, which doubles from failure to
// failure; a commit that is newer than at the last failure makes the next failure the first again.
// Single-threaded.
class RestartPolicy {
 public:
  // The first start is due at once. `newest_commit`: as in AttemptEnd.
  RestartPolicy(const RestartLimits& limits, int64_t newest_commit, SteadyClock::time_point now);

  // kStart if one is due: the caller starts an attempt and reports its end, which may be that it
  // could not be started. One that asks to be started again (kExitAgain) is, at once, and is no
  // failure.
  Action At(SteadyClock::time_point now);
  // An attempt ended: kEnd, or kNone and a start is due at start_at().
  Action OnEnd(const AttemptEnd& end, SteadyClock::time_point now);
  // A person or the cluster wants it to stop. The attempt is asked to, once; a second request that
  // insists kills it; while waiting there is nothing to stop, so it ends.
  Action OnStopRequest(bool insists = true);

  bool waiting() const { return state_ == State::kWaiting; }
  SteadyClock::time_point start_at() const { return start_at_; }  // while waiting
  int64_t failures_in_a_row() const { return failures_; }         // since the last new commit
  int64_t restarts() const { return restarts_; }                  // in all

 private:
  enum class State { kWaiting, kRunning, kStopping, kKilling, kEnded };

  Action End(Outcome outcome);

  const RestartLimits limits_;
  State state_ = State::kWaiting;
  SteadyClock::time_point start_at_;
  int64_t newest_commit_;
  int64_t failures_ = 0;
  int64_t restarts_ = 0;
  bool started_ = false;
};

}  // namespace savior
