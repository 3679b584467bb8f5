// Who of a run is alive, and what becomes of the run: the coordinator's state, without its sockets.
//
//   running -> stopping     somebody was asked to stop: all workers stop after the same step
//   running, stopping -> finished    every worker has done all of its work
//   any but finished -> failed       a process reported an error, or was silent for too long
//
// The first failure is the run's; later ones change nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "common/clock.h"

namespace savior {

enum class RunState : uint8_t { kRunning = 0, kStopping = 1, kFinished = 2, kFailed = 3 };

// What the coordinator says to everybody, or what a rank found out about the coordinator.
struct Verdict {
  RunState state = RunState::kRunning;
  std::string text = {};  // of a failure: who and what
  int exit_code = 1;      // of a failure
  bool own = false;       // not the coordinator's: it will say nothing, so this rank has to
};

// A pure state machine: time comes with each call. Single-threaded.
class Membership {
 public:
  // names: what to call each rank. workers: those that finish a run.
  Membership(std::vector<std::string> names, const std::vector<uint32_t>& workers,
             std::chrono::milliseconds lease, Deadline now);

  // Rank `rank` is alive.
  void Alive(uint32_t rank, Deadline now);
  // Somebody was asked to stop.
  void AskToStop();
  void Finished(uint32_t rank);
  // text: what it says of itself, or, of another one, beginning with that one's name.
  void Failed(uint32_t rank, const std::string& text, int exit_code);
  // A process that waits for nobody any more need not be heard from.
  void Left(uint32_t rank);

  size_t size() const { return members_.size(); }
  // Looks for those who are silent.
  const Verdict& Check(Deadline now);
  const Verdict& verdict() const { return verdict_; }
  // Everybody has left.
  bool over() const;

 private:
  struct Member {
    Deadline heard;
    bool works = false;  // a worker that has not finished
    bool left = false;
  };

  const std::vector<std::string> names_;
  const std::chrono::milliseconds lease_;
  std::vector<Member> members_;
  Verdict verdict_;
};

}  // namespace savior
