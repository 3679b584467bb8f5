// Deadlines and durations. On the steady clock, so that a jump of the wall clock neither expires
// nor extends a wait.
#pragma once

#include <chrono>
#include <cstdint>

namespace savior {

using SteadyClock = std::chrono::steady_clock;
using Deadline = SteadyClock::time_point;

// Of a duration in a configuration.
inline std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

inline double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

inline Deadline DeadlineIn(std::chrono::milliseconds wait) { return SteadyClock::now() + wait; }

}  // namespace savior
