#include "ps/shard_thread.h"

#include <glog/logging.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <latch>
#include <utility>

namespace savior {

ShardThread::ShardThread(std::unique_ptr<Shard> shard)
    : wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      shard_(std::move(shard)),
      thread_([this] { Run(); }) {
  PCHECK(wake_fd_ >= 0) << "eventfd of a shard's thread";
  shard_->SetWake([this] {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    Rouse();
  });
}

ShardThread::~ShardThread() {
  Stop();
  shard_->SetWake(nullptr);  // it outlives what is above
  ::close(wake_fd_);
}

bool ShardThread::Post(Work work) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  work_.push_back(std::move(work));
  Rouse();
  return true;
}

bool ShardThread::PostHint(int64_t step, uint32_t table, std::vector<uint64_t> keys) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  if (keys.empty() || hinted_keys_ + keys.size() > kMaxHintedKeys) return true;
  hinted_keys_ += keys.size();
  hints_.push_back({step, table, std::move(keys)});
  Rouse();
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

bool ShardThread::SetPort(ShardPort* port) {
  std::latch done(1);
  const bool posted = Post([&](Shard&) {
    port_ = port;
    done.count_down();
  });
  if (posted) {
    done.wait();
  } else {
    Stop();  // its last request may still be under way
  }
  return posted;
}

void ShardThread::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    Rouse();
  }
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void ShardThread::Rouse() {
  // A thread that is awake looks into the mailbox before it sleeps: no system call then.
  if (!std::exchange(sleeping_, false)) return;
  const uint64_t one = 1;
  PCHECK(::write(wake_fd_, &one, sizeof(one)) == sizeof(one)) << "waking a shard's thread";
}

void ShardThread::Sleep() {
  {
    const std::lock_guard lock(mutex_);
    const bool woken = std::exchange(woken_, false);
    if (woken || stopping_ || !work_.empty() || !hints_.empty()) return;
    sleeping_ = true;
  }
  pollfd waits[2] = {{.fd = wake_fd_, .events = POLLIN, .revents = 0},
                     {.fd = port_ != nullptr ? port_->fd() : -1, .events = POLLIN, .revents = 0}};
  PCHECK(::poll(waits, 2, -1) >= 0 || errno == EINTR) << "a shard's thread cannot wait";
  const std::lock_guard lock(mutex_);
  if (std::exchange(sleeping_, false)) return;  // somebody at the port
  uint64_t count = 0;
  PCHECK(::read(wake_fd_, &count, sizeof(count)) == sizeof(count)) << "a shard's thread's eventfd";
}

bool ShardThread::WorkOnce() {
  Work work;
  {
    const std::lock_guard lock(mutex_);
    if (work_.empty()) return false;
    work = std::move(work_.front());
    work_.pop_front();
  }
  work(*shard_);
  return true;
}

bool ShardThread::HintOnce() {
  Hint hint;
  {
    const std::lock_guard lock(mutex_);
    if (hints_.empty()) return false;
    hint = std::move(hints_.front());
    hints_.pop_front();
    hinted_keys_ -= hint.keys.size();
  }
  // Nobody waits for a hint. If the shard has failed the next request says so.
  const absl::Status status = shard_->Hint(hint.table, hint.step, hint.keys);
  LOG_IF(WARNING, !status.ok()) << "hint dropped: " << status;
  return true;
}

bool ShardThread::IsDone() {
  const std::lock_guard lock(mutex_);
  return stopping_ && work_.empty();
}

void ShardThread::Run() {
  while (true) {
    // Posted work and the port take turns; hints wait for both, and work ahead of need for all.
    const bool worked = WorkOnce();
    if (!worked && IsDone()) return;
    const bool served = port_ != nullptr && port_->Serve(*shard_);
    if (worked || served || HintOnce() || shard_->Tend()) continue;
    Sleep();
  }
}

}  // namespace savior
