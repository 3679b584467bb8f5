// How a process of `savior` ends: what scripts, mpirun and `savior launch` decide upon.
#pragma once

#include "common/status.h"

namespace savior {

inline constexpr int kExitOk = 0;      // done; or, started by mpirun or srun, stopped and committed
inline constexpr int kExitFailed = 1;  // a restart from the last commit may mend it
inline constexpr int kExitBadInput = 2;   // arguments, configuration or data are wrong: it cannot
inline constexpr int kExitInternal = 3;   // an exception that nobody expected: a bug
inline constexpr int kExitAgain = 76;     // nothing is wrong: it has to start again, at once
inline constexpr int kExitStopped = 130;  // stopped by Ctrl-C or SIGTERM and committed

// For a `status` that ends the program. `trained`: the first step had begun, so the input was good
// and what looks like bad input now is a failure.
inline int ExitCodeOf(const absl::Status& status, bool trained) {
  if (status.ok()) return kExitOk;
  if (absl::IsCancelled(status)) return kExitStopped;
  if (absl::IsAborted(status)) return kExitAgain;
  const bool bad_input = absl::IsInvalidArgument(status) || absl::IsNotFound(status);
  return bad_input && !trained ? kExitBadInput : kExitFailed;
}

}  // namespace savior
