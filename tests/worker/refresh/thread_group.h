// A group of threads, for tests.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "worker/group.h"

namespace savior {

class ThreadMeeting {
 public:
  explicit ThreadMeeting(uint32_t size) : given_(size) {}

  uint32_t size() const { return static_cast<uint32_t>(given_.size()); }

  absl::StatusOr<std::vector<std::string>> Meet(uint32_t rank, std::string_view mine,
                                                const std::atomic<bool>* give_up,
                                                Deadline deadline) {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    given_[rank] = std::string(mine);
    if (++here_ == size()) {
      here_ = 0;
      ++round_;
      all_ = given_;
      changed_.notify_all();
      return all_;
    }
    while (round_ == round) {
      if (give_up != nullptr && give_up->load()) return absl::CancelledError("given up");
      if (SteadyClock::now() >= deadline) return absl::DeadlineExceededError("a thread is missing");
      changed_.wait_for(lock, std::chrono::milliseconds(5));
    }
    return all_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> given_, all_;
  uint32_t here_ = 0;
  uint64_t round_ = 0;
};

class ThreadGroup final : public Group {
 public:
  ThreadGroup(ThreadMeeting* meeting, uint32_t rank, const std::atomic<bool>* give_up = nullptr)
      : meeting_(*meeting), rank_(rank), give_up_(give_up) {}
  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return meeting_.size(); }
  absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine,
                                                     Deadline deadline) override {
    return meeting_.Meet(rank_, mine, give_up_, deadline);
  }
  absl::StatusOr<std::vector<std::string>> Alltoall(std::vector<std::string> mine,
                                                    Deadline deadline) override {
    std::vector<std::string> got;
    for (uint32_t to = 0; to < size(); ++to) {
      SAVIOR_ASSIGN_OR_RETURN(std::vector<std::string> all, Allgather(mine[to], deadline));
      if (to == rank_) got = std::move(all);
    }
    return got;
  }

 private:
  ThreadMeeting& meeting_;
  const uint32_t rank_;
  const std::atomic<bool>* const give_up_;
};

// Runs work(group) as `size` members.
inline void RunAsGroup(uint32_t size, const std::function<void(Group*)>& work) {
  ThreadMeeting meeting(size);
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < size; ++rank) {
    threads.emplace_back([&meeting, &work, rank] {
      ThreadGroup group(&meeting, rank);
      work(&group);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace savior
