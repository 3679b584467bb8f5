// Where the time of many steps went: mean and 99th percentile of each part, in bounded memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "worker/trainer.h"

namespace savior {

// Durations, counted in ranges that grow by 5%, so a percentile is right within that. Copyable.
// Single-threaded.
class Durations {
 public:
  void Add(double seconds);
  // 0 if there are none.
  double Mean() const;
  // The least duration that `share` of all do not exceed, rounded up to the end of its range.
  double Percentile(double share) const;

 private:
  // From 1 us on; the last one, from about 5 minutes, is open.
  static constexpr size_t kRanges = 400;

  std::array<uint32_t, kRanges> counts_ = {};
  uint64_t count_ = 0;
  double sum_ = 0;
};

// Copyable. Single-threaded.
class StepTimes {
 public:
  // step: from its start to its end.
  void Add(const StepSeconds& parts, double step);

  // {"steps": n, "step": {"mean": s, "p99": s}, "assemble": {...}, ...}: the parts of StepSeconds
  // by their names, in seconds.
  nlohmann::ordered_json ToJson() const;

 private:
  static constexpr size_t kParts = 7;  // the step, and those of StepSeconds

  std::array<Durations, kParts> parts_;
  int64_t steps_ = 0;
};

}  // namespace savior
