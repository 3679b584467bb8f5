#include "launcher/restart_policy.h"

#include <algorithm>
#include <csignal>

#include "launcher/exit_code.h"

namespace savior {

RestartPolicy::RestartPolicy(const RestartLimits& limits, int64_t newest_commit,
                             SteadyClock::time_point now)
    : limits_(limits), start_at_(now), newest_commit_(newest_commit) {}

Action RestartPolicy::At(SteadyClock::time_point now) {
  if (state_ != State::kWaiting || now < start_at_) return {};
  if (started_) ++restarts_;
  started_ = true;
  state_ = State::kRunning;
  return {Action::Kind::kStart};
}

Action RestartPolicy::OnEnd(const AttemptEnd& end, SteadyClock::time_point now) {
  if (state_ == State::kKilling) return End(Outcome::kKilled);
  if (end.code == kExitOk) return End(end.finished ? Outcome::kFinished : Outcome::kStopped);
  if (end.code == kExitBadInput) return End(Outcome::kBadInput);
  if (state_ == State::kStopping) {
    // Before its first step a process takes no notice of the signal but dies of it: nothing is
    // lost, since nothing was trained.
    return End(end.code == 128 + SIGUSR1 ? Outcome::kStopped : Outcome::kStopFailed);
  }
  if (end.code == kExitAgain) {
    newest_commit_ = end.newest_commit;
    start_at_ = now;
    state_ = State::kWaiting;
    return {};
  }
  if (end.newest_commit > newest_commit_) failures_ = 0;
  newest_commit_ = end.newest_commit;
  if (failures_ == limits_.in_a_row) return End(Outcome::kGaveUp);
  ++failures_;
  SteadyClock::duration wait = limits_.first_wait;
  for (int64_t i = 1; i < failures_ && wait < limits_.longest_wait; ++i) wait *= 2;
  start_at_ = now + std::min(wait, limits_.longest_wait);
  state_ = State::kWaiting;
  return {};
}

Action RestartPolicy::OnStopRequest(bool insists) {
  switch (state_) {
    case State::kWaiting:
      return End(Outcome::kStopped);
    case State::kRunning:
      state_ = State::kStopping;
      return {Action::Kind::kAskToStop};
    case State::kStopping:
      if (!insists) break;
      state_ = State::kKilling;
      return {Action::Kind::kKill};
    case State::kKilling:
    case State::kEnded:
      break;
  }
  return {};
}

Action RestartPolicy::End(Outcome outcome) {
  state_ = State::kEnded;
  return {Action::Kind::kEnd, outcome};
}

}  // namespace savior
