// An allreduce between threads of one process, for tests.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "worker/allreduce.h"

namespace savior {

// What the members share. Thread-safe.
class ThreadSum {
 public:
  explicit ThreadSum(uint32_t members) : given_(members) {}
  uint32_t members() const { return static_cast<uint32_t>(given_.size()); }

  // The sums of what all have given, in the order of their ranks. Blocks until all have.
  absl::StatusOr<std::vector<float>> Sum(uint32_t rank, std::vector<float> values,
                                         Deadline deadline) {
    std::unique_lock lock(mutex_);
    given_[rank] = std::move(values);
    const uint64_t round = round_;
    if (++arrived_ == given_.size()) {
      sum_ = given_[0];
      for (size_t w = 1; w < given_.size(); ++w) {
        if (given_[w].size() != sum_.size()) return absl::InternalError("different lengths");
        for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += given_[w][i];
      }
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    } else if (!changed_.wait_until(lock, deadline, [&] { return round_ > round; })) {
      return absl::DeadlineExceededError("a worker is missing");
    }
    return sum_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::vector<std::vector<float>> given_;
  std::vector<float> sum_;
  size_t arrived_ = 0;
  uint64_t round_ = 0;
};

class ThreadAllreduce final : public Allreduce {
 public:
  ThreadAllreduce(std::shared_ptr<ThreadSum> sum, uint32_t rank)
      : sum_(std::move(sum)), rank_(rank) {}

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return sum_->members(); }
  void Start(std::span<float> values) override { started_.push_back(values); }
  absl::Status Finish(Deadline deadline) override {
    std::vector<float> all;
    lengths_.clear();
    for (const auto values : started_) {
      all.insert(all.end(), values.begin(), values.end());
      lengths_.push_back(values.size());
    }
    SAVIOR_ASSIGN_OR_RETURN(const auto sums, sum_->Sum(rank_, std::move(all), deadline));
    size_t at = 0;
    for (const auto values : started_) {
      for (float& value : values) value = sums[at++];
    }
    started_.clear();
    return absl::OkStatus();
  }

  // Of the ranges of the last step, in the order in which they were started.
  const std::vector<size_t>& lengths() const { return lengths_; }

 private:
  const std::shared_ptr<ThreadSum> sum_;
  const uint32_t rank_;
  std::vector<std::span<float>> started_;
  std::vector<size_t> lengths_;
};

}  // namespace savior
