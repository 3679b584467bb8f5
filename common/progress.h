// Progress of long work for a person: a bar that redraws itself on a terminal, a plain line now and
// then otherwise.
#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <string>

#include "common/clock.h"

namespace savior {

// Writes to stderr. Single-threaded. On a terminal it redraws at most 10 times a second; elsewhere
// it prints one line when the work starts to be long (every `line_every`) and one at the end.
class Progress {
 public:
  // `total` in `unit`s ("requests"); 0 = unknown. `before` of them were done by an earlier process
  // (a run that goes on): they count for the share done, not for the rate.
  Progress(std::string what, int64_t total, std::string unit,
           absl::Duration line_every = absl::Seconds(15), int64_t before = 0);
  // Ends the line, if Finish was not called.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` so far, with a few words ("loss 0.41") to show behind the bar. Shows percentage, rate
  // and time left.
  void Update(int64_t done, const std::string& note = "");
  void Finish(const std::string& note = "");

 private:
  std::string Line(int64_t done, const std::string& note) const;

  const std::string what_;
  const int64_t total_;
  const std::string unit_;
  const absl::Duration line_every_;
  const bool terminal_;
  const SteadyClock::time_point start_;
  const int64_t before_;
  SteadyClock::time_point last_;
  int64_t done_;
  bool finished_ = false;
};

}  // namespace savior
