#include "ps/shard_thread.h"

#include <glog/logging.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace savior {

ShardThread::ShardThread(std::unique_ptr<Shard> shard)
    : shard_(std::move(shard)), thread_([this] { Run(); }) {
  shard_->SetWake([this] { Wake(); });
}

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
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(hints_, [&](const Hint& hint) {
      if (hint.step < from_step) return false;
      hinted_keys_ -= hint.keys.size();
      return true;
    });
  }
  return Post([from_step](Shard& shard) {
    // If the shard has failed the next request says so.
    shard.CancelHints(from_step).IgnoreError();
  });
}

void ShardThread::Wake() {
  {
    const std::lock_guard lock(mutex_);
    woken_ = true;
  }
  wake_.notify_one();
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

void ShardThread::Run() {
  bool more = false;  // to tend to
  while (true) {
    Work work;
    std::optional<Hint> hint;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock,
                 [&] { return more || woken_ || stopping_ || !work_.empty() || !hints_.empty(); });
      woken_ = false;
      if (!work_.empty()) {
        work = std::move(work_.front());
        work_.pop_front();
      } else if (stopping_) {
        return;
      } else if (!hints_.empty()) {
        hint = std::move(hints_.front());
        hints_.pop_front();
        hinted_keys_ -= hint->keys.size();
      }
    }
    if (work) {
      work(*shard_);
    } else if (hint.has_value()) {
      // Nobody waits for a hint. If the shard has failed the next request says so.
      const absl::Status status = shard_->Hint(hint->table, hint->step, hint->keys);
      LOG_IF(WARNING, !status.ok()) << "hint dropped: " << status;
    } else {
      more = shard_->Tend();
      continue;
    }
    more = true;
  }
}

}  // namespace savior
