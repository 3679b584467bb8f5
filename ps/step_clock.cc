#include "ps/step_clock.h"

#include <absl/strings/str_cat.h>

#include <algorithm>

namespace savior {

StepClock::StepClock(const StepRules& rules)
    : rules_(rules),
      workers_(rules.workers, Progress{.done = rules.first_step}),
      done_(rules.first_step) {}

absl::Status StepClock::CheckPush(uint32_t worker, int64_t step, uint32_t parts) const {
  if (worker >= rules_.workers) {
    return absl::InvalidArgumentError(
        absl::StrCat("a push of worker ", worker, ": the run has ", rules_.workers, " workers"));
  }
  if (parts == 0) {
    return absl::InvalidArgumentError("a push that does not say of how many messages it is");
  }
  const Progress& progress = workers_[worker];
  const int64_t ahead = step - progress.done;
  const int64_t most = rules_.synchronous() ? done_ - progress.done : kWindow - 1;
  if (ahead < 0 || ahead > most) {
    return absl::FailedPreconditionError(absl::StrCat("worker ", worker, " pushes step ", step,
                                                      ": it has done all before ", progress.done,
                                                      ", and all workers all before ", done_));
  }
  const auto place = static_cast<size_t>(ahead);
  if (place < progress.parts.size() && progress.parts[place] != 0 &&
      (progress.parts[place] != parts || progress.here[place] == parts)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker ", worker, " pushes step ", step, " in ", parts,
        " messages: ", progress.here[place], " of ", progress.parts[place], " are here"));
  }
  return absl::OkStatus();
}

bool StepClock::Completes(uint32_t worker, int64_t step, uint32_t parts) const {
  const auto done_after = [&](uint32_t w) {
    const Progress& progress = workers_[w];
    if (w != worker || step != progress.done) return progress.done;
    const uint32_t here = progress.here.empty() ? 0 : progress.here.front();
    return here + 1 == parts ? progress.done + 1 : progress.done;
  };
  for (uint32_t w = 0; w < rules_.workers; ++w) {
    if (done_after(w) <= step) return false;
  }
  return true;
}

void StepClock::Push(uint32_t worker, int64_t step, uint32_t parts) {
  Progress& progress = workers_[worker];
  const auto place = static_cast<size_t>(step - progress.done);
  if (progress.here.size() <= place) {
    progress.here.resize(place + 1, 0);
    progress.parts.resize(place + 1, 0);
  }
  progress.parts[place] = parts;
  ++progress.here[place];
  while (!progress.here.empty() && progress.parts.front() != 0 &&
         progress.here.front() == progress.parts.front()) {
    progress.here.pop_front();
    progress.parts.pop_front();
    ++progress.done;
  }
  done_ = std::ranges::min(workers_, {}, &Progress::done).done;
}

bool StepClock::MayPull(int64_t step) const {
  return rules_.staleness == kAsynchronous || step <= done_ + rules_.staleness;
}

absl::Status StepClock::CheckAhead(int64_t step) const {
  const int64_t last = done_ + std::max<int64_t>(rules_.staleness, 0) + kWindow;
  if (step <= last) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("a request of step ", step, ": all workers have done all before ", done_));
}

void StepClock::CountPull(int64_t step, bool held) {
  ++stats_.pulls;
  if (held) ++stats_.pulls_held;
  // In synchronous runs what is here is applied when the step is done.
  const auto without = static_cast<uint64_t>(step > done_ ? step - done_ : 0);
  stats_.max_staleness = std::max(stats_.max_staleness, without);
}

uint32_t StepClock::slowest() const {
  return static_cast<uint32_t>(std::ranges::min_element(workers_, {}, &Progress::done) -
                               workers_.begin());
}

StepStats StepClock::stats() const {
  StepStats stats = stats_;
  stats.steps = static_cast<uint64_t>(done_ - rules_.first_step);
  return stats;
}

}  // namespace savior
