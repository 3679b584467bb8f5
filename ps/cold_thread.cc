#include "ps/cold_thread.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <numeric>
#include <string_view>
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

void ColdWrite::Run(ColdStore& store) { status = store.Write(&batch); }

void ColdSlice::Run(ColdStore& store) {
  std::vector<uint32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [this](uint32_t a, uint32_t b) { return keys[a] < keys[b]; });
  std::vector<uint64_t> sorted(keys.size());
  for (size_t i = 0; i < order.size(); ++i) sorted[i] = keys[order[i]];
  const auto write = [&]() -> absl::Status {
    SAVIOR_FAILPOINT("shard.before_slice");
    SAVIOR_RETURN_IF_ERROR(store.WriteSorted(table, sorted, [&](size_t i) {
      return std::string_view(values).substr(order[i] * stored_bytes, stored_bytes);
    }));
    SAVIOR_FAILPOINT("shard.after_slice");
    return absl::OkStatus();
  };
  status = write();
  values = {};  // its owner needs the marked keys only
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
