#include "common/at_once.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace savior {
namespace {

// The error with the least number so far.
class FirstError {
 public:
  void Note(size_t number, absl::Status status) {
    if (status.ok()) return;
    const std::lock_guard lock(mutex_);
    failed_ = true;
    if (number >= number_) return;
    number_ = number;
    status_ = std::move(status);
  }
  bool failed() const { return failed_; }
  // No thread works any more.
  absl::Status Take() { return std::move(status_); }

 private:
  std::mutex mutex_;
  std::atomic<bool> failed_{false};
  // Guarded by mutex_.
  size_t number_ = std::numeric_limits<size_t>::max();
  absl::Status status_;
};

}  // namespace

absl::Status AtOnce(size_t n, absl::FunctionRef<absl::Status(size_t)> work) {
  FirstError error;
  std::vector<std::jthread> others;  // joined when they go
  std::vector<size_t> mine = {0};
  others.reserve(n);
  for (size_t i = 1; i < n; ++i) {
    try {
      others.emplace_back([&error, work, i] { error.Note(i, work(i)); });
    } catch (const std::system_error&) {
      mine.push_back(i);
    }
  }
  for (const size_t i : mine) {
    if (i < n) error.Note(i, work(i));
  }
  others.clear();
  return error.Take();
}

absl::Status ShareOut(size_t n, size_t threads, absl::FunctionRef<absl::Status(size_t)> work) {
  FirstError error;
  std::atomic<size_t> next = 0;
  const auto work_on = [&](size_t) {
    for (size_t i = next++; i < n && !error.failed(); i = next++) error.Note(i, work(i));
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(AtOnce(std::min(n, std::max<size_t>(threads, 1)), work_on));
  return error.Take();
}

size_t Cores() { return std::max(std::thread::hardware_concurrency(), 1u); }

}  // namespace savior
