#include "worker/mpi_allreduce.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

namespace savior {
namespace {

// Pieces under way at once: one is summed while others travel, and memory stays bounded.
constexpr size_t kUnderWay = 4;
constexpr std::chrono::microseconds kShortestSleep{5};
constexpr std::chrono::microseconds kLongestSleep{1000};
constexpr std::chrono::microseconds kLongestSleepWhenWaited{200};
// MPI may still hold bytes that it called sent: it is looked after when there is nothing to do.
constexpr std::chrono::milliseconds kIdleProgress{20};

}  // namespace

absl::StatusOr<std::unique_ptr<MpiAllreduce>> MpiAllreduce::Create(
    MpiGroup* workers, const MpiAllreduceOptions& options, Deadline deadline) {
  if (options.bucket_bytes < sizeof(float)) {
    return absl::InvalidArgumentError("bucket_bytes must be at least 4");
  }
  SAVIOR_ASSIGN_OR_RETURN(auto group, workers->Split(0, workers->rank(), deadline));
  std::unique_ptr<MpiAllreduce> allreduce(new MpiAllreduce(std::move(group), options));
  if (allreduce->size() > 1) {
    allreduce->thread_ = std::thread(&MpiAllreduce::Run, allreduce.get());
  }
  return allreduce;
}

MpiAllreduce::MpiAllreduce(std::unique_ptr<MpiGroup> group, const MpiAllreduceOptions& options)
    : group_(std::move(group)), options_(options) {}

MpiAllreduce::~MpiAllreduce() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void MpiAllreduce::Start(std::span<float> values) {
  if (size() == 1) return;
  bool forget = false;
  if (range_ == lengths_.size()) lengths_.push_back(values.size());
  if (lengths_[range_] != values.size()) {
    forget = true;
    lengths_.resize(range_);
    lengths_.push_back(values.size());
  }
  ++range_;
  const ValueDtype wire = values.size() <= kShort ? ValueDtype::kFloat32 : options_.wire;
  const size_t longest = options_.bucket_bytes / sizeof(float);
  {
    const std::lock_guard lock(mutex_);
    for (size_t begin = 0; begin < values.size() && failed_.ok(); begin += longest) {
      const auto piece = values.subspan(begin, std::min(longest, values.size() - begin));
      queue_.push_back({piece, position_ + begin, wire, forget});
      forget = false;
      ++open_;
    }
  }
  position_ += values.size();
  changed_.notify_all();
}

absl::Status MpiAllreduce::Finish(Deadline deadline) {
  position_ = range_ = 0;
  if (size() == 1) return absl::OkStatus();
  std::unique_lock lock(mutex_);
  const auto ended = [this] { return open_ == 0 || !failed_.ok(); };
  if (!ended()) {
    waiting_ = true;
    changed_.notify_all();
    if (!changed_.wait_until(lock, deadline, ended)) {
      give_up_ = true;
      changed_.notify_all();
      changed_.wait(lock, ended);  // the thread never waits for anybody
    }
    waiting_ = false;
  }
  return failed_;
}

uint64_t MpiAllreduce::bytes_sent() const {
  const std::lock_guard lock(mutex_);
  return bytes_sent_;
}

std::unique_ptr<MpiBucket> MpiAllreduce::MakeBucket(const Piece& piece) {
  if (piece.forget) residuals_.erase(residuals_.lower_bound(piece.position), residuals_.end());
  MpiBucket::Residuals residuals;
  if (piece.wire != ValueDtype::kFloat32) {
    Residuals& own = residuals_[piece.position];
    own.contribution.resize(piece.values.size());
    own.sum.resize(piece.values.size());
    residuals = {own.contribution, own.sum};
  }
  return std::make_unique<MpiBucket>(group_.get(), piece.values, piece.wire, residuals);
}

// Whether anything has moved.
absl::StatusOr<bool> MpiAllreduce::Advance() {
  bool moved = false;
  bool all_before_gather = true;
  for (const auto& bucket : buckets_) {
    SAVIOR_ASSIGN_OR_RETURN(const bool some, bucket->Poll());
    moved |= some;
    if (bucket->scattered() && all_before_gather) bucket->StartGather();
    all_before_gather = all_before_gather && bucket->gathering();
  }
  return moved;
}

absl::Status MpiAllreduce::GaveUp() const {
  if (buckets_.empty()) return absl::DeadlineExceededError("allreduce: out of time");
  return absl::DeadlineExceededError(absl::StrCat(
      "allreduce: nothing from worker ", group_->Describe(buckets_.front()->MissingPeers())));
}

void MpiAllreduce::Run() {
  std::chrono::microseconds sleep = kShortestSleep;
  std::unique_lock lock(mutex_);
  while (!stop_ && failed_.ok()) {
    if (buckets_.empty() && queue_.empty()) {
      const auto wake = [this] { return stop_ || !queue_.empty(); };
      if (!changed_.wait_for(lock, kIdleProgress, wake)) {
        lock.unlock();
        MakeMpiProgress(group_->world());
        lock.lock();
      }
      sleep = kShortestSleep;
      continue;
    }
    std::vector<Piece> pieces;
    while (!queue_.empty() && buckets_.size() + pieces.size() < kUnderWay) {
      pieces.push_back(queue_.front());
      queue_.pop_front();
    }
    lock.unlock();
    for (const Piece& piece : pieces) {
      buckets_.push_back(MakeBucket(piece));
      buckets_.back()->StartScatter();
    }
    const absl::StatusOr<bool> moved = Advance();
    uint64_t sent = 0;
    size_t ended = 0;
    for (; !buckets_.empty() && buckets_.front()->done(); buckets_.pop_front(), ++ended) {
      sent += buckets_.front()->bytes_sent();
    }
    lock.lock();
    bytes_sent_ += sent;
    open_ -= ended;
    if (open_ == 0) changed_.notify_all();
    if (!moved.ok()) {
      failed_ = Annotate(moved.status(), "allreduce");
    } else if (give_up_ && open_ > 0) {
      failed_ = GaveUp();
    } else if (*moved) {
      sleep = kShortestSleep;
    } else {
      changed_.wait_for(lock, sleep);
      sleep = std::min(2 * sleep, waiting_ ? kLongestSleepWhenWaited : kLongestSleep);
    }
  }
  // Nothing touches the caller's values any more; what MPI still moves is its own.
  queue_.clear();
  lock.unlock();
  buckets_.clear();
  lock.lock();
  changed_.notify_all();
}

}  // namespace savior
