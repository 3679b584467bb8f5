#include "worker/refresh/work_budget.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <thread>

namespace savior {
namespace {

// A job that is given up ends this soon.
constexpr double kLongestSleep = 0.05;

double ThreadCpuSeconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

WorkBudget::WorkBudget(double cpu_share, const std::atomic<bool>* give_up)
    : cpu_share_(cpu_share), give_up_(give_up), start_(ThreadCpuSeconds()), last_(start_) {}

absl::Status WorkBudget::Spend() {
  const double now = ThreadCpuSeconds();
  double rest = (now - last_) * (1.0 / cpu_share_ - 1.0);
  last_ = now;
  while (true) {
    if (give_up_ != nullptr && give_up_->load()) return absl::CancelledError("given up");
    if (rest <= 0.0) return absl::OkStatus();
    const double sleep = std::min(rest, kLongestSleep);
    std::this_thread::sleep_for(std::chrono::duration<double>(sleep));
    rest -= sleep;
  }
}

double WorkBudget::cpu_seconds() const { return ThreadCpuSeconds() - start_; }

}  // namespace savior
