#include "ps/shard_thread.h"

#include <glog/logging.h>

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

namespace savior {

ShardThread::ShardThread(std::unique_ptr<Shard> shard)
    : shard_(std::move(shard)), thread_([this] { Run(); }) {}

ShardThread::~ShardThread() { Stop(); }

bool ShardThread::Post(Work work) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
    work_.push_back(std::move(work));
  }
  wake_.notify_one();
  return true;
}

bool ShardThread::PostHint(int64_t step, uint32_t table, std::vector<uint64_t> keys) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
    if (keys.empty() || hinted_keys_ + keys.size() > kMaxHintedKeys) return true;
    hinted_keys_ += keys.size();
    hints_.push_back({step, table, std::move(keys)});
  }
  wake_.notify_one();
  return true;
}

bool ShardThread::CancelHints(int64_t from_step) {
  const std::lock_guard lock(mutex_);
  std::erase_if(hints_, [&](const Hint& hint) {
    if (hint.step < from_step) return false;
    hinted_keys_ -= hint.keys.size();
    return true;
  });
  return !stopping_;
}

void ShardThread::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void ShardThread::WorkOn(Hint* hint, Shard* shard) {
  const size_t n = std::min(kHintSlice, hint->keys.size() - hint->done);
  const absl::Status status =
      shard->BringUp(hint->table, std::span(hint->keys).subspan(hint->done, n));
  // Nobody waits for a hint. If the shard has failed the next request says so.
  LOG_IF(WARNING, !status.ok()) << "hint dropped: " << status;
  hint->done = status.ok() ? hint->done + n : hint->keys.size();
}

void ShardThread::Run() {
  std::optional<Hint> hint;  // being worked on
  while (true) {
    Work work;
    {
      std::unique_lock lock(mutex_);
      if (hint.has_value() && hint->done == hint->keys.size()) {
        hinted_keys_ -= hint->keys.size();
        hint.reset();
      }
      wake_.wait(
          lock, [&] { return stopping_ || !work_.empty() || !hints_.empty() || hint.has_value(); });
      if (!work_.empty()) {
        work = std::move(work_.front());
        work_.pop_front();
      } else if (stopping_) {
        return;
      } else if (!hint.has_value()) {
        hint = std::move(hints_.front());
        hints_.pop_front();
      }
    }
    if (work) {
      work(*shard_);
    } else {
      WorkOn(&*hint, shard_.get());
    }
  }
}

}  // namespace savior
