// A worker's place in a run (launcher/run_place.h), observed: when it asked its store for what, and
// when it had the answer. In every other block of steps it waits for each answer at once, so that
// nothing overlaps: the other side of the same run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "launcher/run_place.h"

namespace savior {

enum class CallKind : uint8_t { kPull, kPush };

// A pull or push of a step; times on the steady clock, seconds (bench/harness.h).
struct ObservedCall {
  CallKind kind = CallKind::kPull;
  int64_t step = 0;
  double start_begin = 0, start_end = 0;    // of StartPull or StartPush
  double finish_begin = 0, finish_end = 0;  // of Finish; the end of a call that was waited for
                                            // at once is its start_end, too
  double cpu = 0;                           // of the worker's thread, in both

  // What the worker's thread spent in it.
  double waited() const { return start_end - start_begin + finish_end - finish_begin; }
  // Until its answer had been taken in.
  double passed() const { return finish_end - start_begin; }
};

// What a worker did, in the order in which calls ended.
struct Observations {
  std::vector<ObservedCall> calls;
  std::vector<double> allreduce_begin, allreduce_end;  // of Finish, by step
};

// Steps of one kind in a row.
inline constexpr int64_t kBlock = 16;
// Whether calls of this step are waited for at once.
inline bool IsSerial(int64_t step) { return step / kBlock % 2 == 1; }

// Both outlive the place. Single-threaded, as the worker is.
std::unique_ptr<RunPlace> Observe(RunPlace* place, Observations* observations);

}  // namespace savior
