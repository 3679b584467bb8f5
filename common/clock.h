// Deadlines. On the steady clock, so that a jump of the wall clock neither expires nor extends a
// wait.
#pragma once

#include <chrono>

namespace savior {

using SteadyClock = std::chrono::steady_clock;
using Deadline = SteadyClock::time_point;

inline Deadline DeadlineIn(std::chrono::milliseconds wait) { return SteadyClock::now() + wait; }

}  // namespace savior
