#include "ps/cold_thread.h"

#include <absl/strings/str_cat.h>

#include <utility>

#include "common/failpoint.h"
#include "ps/shard_note.h"

namespace savior {

void ColdRead::Run(ColdStore& store) {
  values.reserve(keys.size() * stored_bytes);
  status = store.Get(table, keys, [this](size_t i, std::string_view value) {
    if (value.size() != stored_bytes) {
      return absl::DataLossError(absl::StrCat("key ", keys[i], ": stored row has ", value.size(),
                                              " bytes, not ", stored_bytes));
    }
    found.push_back(static_cast<uint32_t>(i));
    values.append(value);
    return absl::OkStatus();
  });
}

void ColdWrite::Run(ColdStore& store) {
  const auto write_slice = [&]() -> absl::Status {
    SAVIOR_FAILPOINT("shard.before_slice");
    SAVIOR_RETURN_IF_ERROR(store.Write(&batch));
    SAVIOR_FAILPOINT("shard.after_slice");
    return absl::OkStatus();
  };
  status = of == Of::kSlice ? write_slice() : store.Write(&batch);
}

void ColdCheckpoint::Run(ColdStore& store) {
  const auto take = [&]() -> absl::Status {
    SAVIOR_FAILPOINT("checkpoint.before_notes");
    for (const TableRules::Saved& saved : rules) {
      SAVIOR_RETURN_IF_ERROR(TableRules::Write(saved, &store));
    }
    SAVIOR_RETURN_IF_ERROR(store.PutNote(ShardNote::kName, note));
    return TakeCheckpoint(&store, live, place, digests);
  };
  status = take();
}

ColdThread::ColdThread(ColdStore* store, absl::AnyInvocable<void()> wake)
    : store_(store), wake_(std::move(wake)), thread_([this] { Run(); }) {}

ColdThread::~ColdThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ColdThread::Post(ColdJob job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  ++outstanding_;
  changed_.notify_all();
}

std::optional<ColdJob> ColdThread::Take() {
  if (done_.empty()) return std::nullopt;
  ColdJob job = std::move(done_.front());
  done_.pop_front();
  --outstanding_;
  return job;
}

std::optional<ColdJob> ColdThread::TakeDone() {
  if (outstanding_ == 0) return std::nullopt;
  std::unique_lock lock(mutex_);
  return Take();
}

std::optional<ColdJob> ColdThread::WaitDone() {
  if (outstanding_ == 0) return std::nullopt;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !done_.empty(); });
  return Take();
}

void ColdThread::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    ColdJob job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    std::visit([this](auto& j) { j.Run(*store_); }, job);
    lock.lock();
    done_.push_back(std::move(job));
    changed_.notify_all();
    wake_();
  }
}

}  // namespace savior
