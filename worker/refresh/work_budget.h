// What a background job may take of its core, beside training.
#pragma once

#include <atomic>

#include "common/status.h"

namespace savior {

// Used by the job's own thread.
class WorkBudget {
 public:
  // cpu_share in (0, 1]: of one core. `give_up`, if there is one, outlives the budget.
  explicit WorkBudget(double cpu_share, const std::atomic<bool>* give_up = nullptr);

  // To be called every millisecond of work or so: sleeps for as long as the CPU time since the last
  // call asks for. kCancelled: the job is to be given up.
  [[nodiscard]] absl::Status Spend();

  double cpu_seconds() const;  // of this thread, since the budget was made

 private:
  const double cpu_share_;
  const std::atomic<bool>* const give_up_;
  const double start_;
  double last_;
};

}  // namespace savior
