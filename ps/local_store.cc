#include "ps/local_store.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>

#include "common/routing.h"
#include "common/store_checks.h"
#include "ps/row.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Rows of a pull between two looks at whether its caller still waits.
constexpr size_t kPullSlice = 4096;

// What a thread of a walk over all rows takes at a time: so much that handing it over costs
// nothing, so little that a few of them are no memory to speak of.
constexpr size_t kReadBytes = size_t{1} << 20;
constexpr size_t kLeastRead = 64, kMostRead = 8192;  // rows

// Until a shard whose disk is full is asked again.
constexpr std::chrono::milliseconds kAgainWhenFull{50};

// Between two looks at a checkpoint that is being written.
constexpr std::chrono::milliseconds kBetweenLooks{5};

absl::Status Expired() { return absl::DeadlineExceededError("the shards did not answer in time"); }

}  // namespace

// One call under way: its parts, one per shard, and its caller who waits. Shared by both, so that a
// part that is taken back may find out after the caller has left.
class LocalStore::Call {
 public:
  explicit Call(size_t parts) : waiting_(parts), results_(parts) {}

  // A shard begins part `p`. False: it was taken back; the part must touch nothing.
  bool Begin() {
    const std::lock_guard lock(mutex_);
    if (abandoned_) return false;
    --waiting_;
    ++running_;
    return true;
  }

  void End(size_t part, absl::Status result) {
    {
      const std::lock_guard lock(mutex_);
      --running_;
      results_[part] = std::move(result);
    }
    changed_.notify_one();
  }

  // Part `p` never began.
  void Refuse(size_t part, absl::Status result) {
    const std::lock_guard lock(mutex_);
    --waiting_;
    results_[part] = std::move(result);
  }

  // Whether the caller has given up: a part under way should end.
  bool abandoned() const { return abandoned_.load(std::memory_order_relaxed); }

  // The first error by part, after all parts have ended, or after the deadline and all begun parts
  // have.
  absl::Status Wait(Deadline deadline) {
    std::unique_lock lock(mutex_);
    const bool ended =
        changed_.wait_until(lock, deadline, [this] { return waiting_ == 0 && running_ == 0; });
    if (!ended) {
      abandoned_ = true;
      changed_.wait(lock, [this] { return running_ == 0; });
      // All parts may have made it while we gave up.
      if (waiting_ > 0) return Expired();
    }
    for (const absl::Status& result : results_) SAVIOR_RETURN_IF_ERROR(result);
    return absl::OkStatus();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> abandoned_{false};  // written under mutex_
  // Guarded by mutex_.
  size_t waiting_;  // parts not begun
  size_t running_ = 0;
  std::vector<absl::Status> results_;
};

absl::StatusOr<std::unique_ptr<LocalStore>> LocalStore::Open(LocalStoreOptions options) {
  options.first = 0;
  options.count = options.shards;
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<ShardHost> host, ShardHost::Open(std::move(options)));
  return std::unique_ptr<LocalStore>(new LocalStore(std::move(host)));
}

LocalStore::LocalStore(std::unique_ptr<ShardHost> host)
    : host_(std::move(host)), bucket_map_(EvenBucketMap(host_->shards())) {}

LocalStore::~LocalStore() = default;

template <typename ShardWork>
absl::Status LocalStore::RunOn(std::span<const uint32_t> shards, Deadline deadline,
                               ShardWork work) {
  if (SteadyClock::now() >= deadline) return Expired();
  const auto call = std::make_shared<Call>(shards.size());
  for (size_t p = 0; p < shards.size(); ++p) {
    const uint32_t s = shards[p];
    // `work` lives on this stack: a part that begins is waited for, one that does not touches
    // nothing of it.
    const bool posted = host_->thread(s).Post([call, p, s, work = &work](Shard& shard) {
      if (call->Begin()) call->End(p, (*work)(s, shard, *call));
    });
    if (!posted) call->Refuse(p, absl::UnavailableError(absl::StrCat("shard ", s, " has stopped")));
  }
  return call->Wait(deadline);
}

template <typename ShardWork>
absl::Status LocalStore::RunOnAll(Deadline deadline, ShardWork work) {
  std::vector<uint32_t> all(host_->shards());
  std::iota(all.begin(), all.end(), 0);
  return RunOn(all, deadline, std::move(work));
}

std::vector<uint32_t> LocalStore::Owners(const Partition& partition) const {
  std::vector<uint32_t> shards;
  for (uint32_t s = 0; s < host_->shards(); ++s) {
    if (!partition.Of(s).empty()) shards.push_back(s);
  }
  return shards;
}

template <typename ShardWrite>
absl::Status LocalStore::Write(std::span<const TableKeys> requests, Deadline deadline,
                               ShardWrite write) {
  const Partition partition(requests, bucket_map_, host_->shards());
  std::vector<uint32_t> shards = Owners(partition);
  absl::Status why;  // the last refusal; guarded by the next while shards are asked
  std::mutex mutex;
  while (true) {
    std::vector<uint32_t> full;  // guarded by mutex
    const absl::Status run = RunOn(shards, deadline, [&](uint32_t s, Shard& shard, const Call&) {
      std::vector<WritePart> parts;
      for (const Piece& piece : partition.Of(s)) parts.push_back({piece.table, piece.selection});
      absl::Status status = write(shard, parts, partition.Of(s));
      if (!absl::IsResourceExhausted(status)) return status;
      const std::lock_guard lock(mutex);
      full.push_back(s);
      why = std::move(status);
      return absl::OkStatus();
    });
    // What it waited for, not that it has waited.
    if (absl::IsDeadlineExceeded(run) && !why.ok()) return why;
    SAVIOR_RETURN_IF_ERROR(run);
    if (full.empty()) return absl::OkStatus();
    // These shards have applied nothing, the others all of it: the write waits for disk space.
    if (SteadyClock::now() + kAgainWhenFull >= deadline) return why;
    std::this_thread::sleep_for(kAgainWhenFull);
    shards = std::move(full);
  }
}

template <typename ShardRead>
absl::Status LocalStore::Read(std::span<const TableKeys> requests, Deadline deadline,
                              ShardRead read) {
  const Partition partition(requests, bucket_map_, host_->shards());
  return RunOn(
      Owners(partition), deadline, [&](uint32_t s, Shard& shard, const Call& call) -> absl::Status {
        for (const Piece& piece : partition.Of(s)) {
          const size_t n = piece.selection.keys.size();
          for (size_t begin = 0; begin < n; begin += kPullSlice) {
            if (call.abandoned()) return Expired();
            SAVIOR_RETURN_IF_ERROR(
                read(shard, piece, piece.selection.Slice(begin, std::min(kPullSlice, n - begin))));
          }
        }
        return absl::OkStatus();
      });
}

absl::Status LocalStore::Pull(std::span<const TablePull> pulls, Deadline deadline) {
  std::vector<TableKeys> requests;
  requests.reserve(pulls.size());
  for (const TablePull& pull : pulls) {
    SAVIOR_RETURN_IF_ERROR(CheckPull(tables(), pull));
    requests.push_back({pull.table, pull.keys});
  }
  return Read(requests, deadline,
              [&](Shard& shard, const Piece& piece, const RowSelection& selection) {
                const TablePull& pull = pulls[piece.request];
                uint32_t* const updates = pull.updates.empty() ? nullptr : pull.updates.data();
                return shard.Pull(piece.table, selection, pull.rows.data(), updates);
              });
}

absl::Status LocalStore::ReadRows(std::span<const TableRead> reads, Deadline deadline) {
  std::vector<TableKeys> requests;
  requests.reserve(reads.size());
  for (const TableRead& read : reads) {
    SAVIOR_RETURN_IF_ERROR(CheckRead(tables(), read));
    requests.push_back({read.table, read.keys});
  }
  SAVIOR_RETURN_IF_ERROR(CheckUnique(tables(), requests));
  return Read(
      requests, deadline, [&](Shard& shard, const Piece& piece, const RowSelection& selection) {
        const TableRead& read = reads[piece.request];
        return shard.ReadRows(piece.table, selection, read.rows.data(), read.updates.data());
      });
}

absl::Status LocalStore::Push(int64_t step, std::span<const TablePush> pushes, Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(CheckStep(step));
  std::vector<TableKeys> requests;
  requests.reserve(pushes.size());
  for (const TablePush& push : pushes) {
    SAVIOR_RETURN_IF_ERROR(CheckPush(tables(), push));
    requests.push_back({push.table, push.keys});
  }
  return Write(requests, deadline,
               [&](Shard& shard, std::span<WritePart> parts, std::span<const Piece> pieces) {
                 for (size_t p = 0; p < parts.size(); ++p) {
                   parts[p].values = pushes[pieces[p].request].grads.data();
                 }
                 return shard.Push(step, parts);
               });
}

absl::StatusOr<Ticket> LocalStore::StartPull(int64_t, std::span<const TablePull> pulls,
                                             Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(Pull(pulls, deadline));
  return Ticket{};
}

absl::StatusOr<Ticket> LocalStore::StartPush(int64_t step, std::span<const TablePush> pushes,
                                             Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(Push(step, pushes, deadline));
  return Ticket{};
}

absl::Status LocalStore::Finish(Ticket) { return absl::OkStatus(); }

absl::Status LocalStore::Put(std::span<const TablePut> puts, Deadline deadline) {
  std::vector<TableKeys> requests;
  requests.reserve(puts.size());
  for (const TablePut& put : puts) {
    SAVIOR_RETURN_IF_ERROR(CheckPut(tables(), put));
    requests.push_back({put.table, put.keys});
  }
  return Write(requests, deadline,
               [&](Shard& shard, std::span<WritePart> parts, std::span<const Piece> pieces) {
                 for (size_t p = 0; p < parts.size(); ++p) {
                   parts[p].values = puts[pieces[p].request].rows.data();
                 }
                 return shard.Put(parts);
               });
}

absl::Status LocalStore::WriteRows(int64_t step, std::span<const TableWrite> writes,
                                   Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(CheckStep(step));
  std::vector<TableKeys> requests;
  requests.reserve(writes.size());
  for (const TableWrite& write : writes) {
    SAVIOR_RETURN_IF_ERROR(CheckWrite(tables(), write));
    requests.push_back({write.table, write.keys});
  }
  SAVIOR_RETURN_IF_ERROR(CheckUnique(tables(), requests));
  return Write(requests, deadline,
               [&](Shard& shard, std::span<WritePart> parts, std::span<const Piece> pieces) {
                 for (size_t p = 0; p < parts.size(); ++p) {
                   parts[p].values = writes[pieces[p].request].rows.data();
                   parts[p].updates = writes[pieces[p].request].updates.data();
                 }
                 return shard.WriteRows(step, parts);
               });
}

absl::Status LocalStore::Hint(int64_t step, std::span<const TableKeys> keys) {
  for (const TableKeys& request : keys) {
    SAVIOR_RETURN_IF_ERROR(CheckTable(tables(), request.table));
  }
  const Partition partition(keys, bucket_map_, host_->shards());
  for (uint32_t s = 0; s < host_->shards(); ++s) {
    for (const Piece& piece : partition.Of(s)) {
      const auto& [of_shard, positions] = piece.selection;
      if (!host_->thread(s).PostHint(step, piece.table, {of_shard.begin(), of_shard.end()})) {
        return absl::UnavailableError(absl::StrCat("shard ", s, " has stopped"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status LocalStore::CancelHints(int64_t from_step) {
  for (uint32_t s = 0; s < host_->shards(); ++s) {
    if (!host_->thread(s).CancelHints(from_step)) {
      return absl::UnavailableError(absl::StrCat("shard ", s, " has stopped"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StoreStats> LocalStore::Stats(Deadline deadline) {
  StoreStats stats{.tables = std::vector<TableStats>(tables().size())};
  std::mutex mutex;  // of stats: the shards answer at the same time
  SAVIOR_RETURN_IF_ERROR(RunOnAll(deadline, [&](uint32_t, const Shard& shard, const Call&) {
    const std::lock_guard lock(mutex);
    shard.AddStats(stats.tables);
    return absl::OkStatus();
  }));
  return stats;
}

absl::Status LocalStore::Freeze(int64_t step, const CheckpointPlace& place, Deadline deadline) {
  return RunOnAll(deadline, [&](uint32_t s, Shard& shard, const Call&) {
    return shard.Freeze(step, PlaceOfShard(place, s));
  });
}

absl::StatusOr<bool> LocalStore::CheckpointWritten(int64_t step, Deadline deadline) {
  std::atomic<bool> all = true;
  const absl::Status status = RunOnAll(deadline, [&](uint32_t, Shard& shard, const Call&) {
    const std::optional<absl::Status> written = shard.CheckpointOf(step);
    if (!written.has_value()) all = false;
    return written.value_or(absl::OkStatus());
  });
  // What one shard says of its own is the answer when all have ended.
  if (!all && !absl::IsDeadlineExceeded(status) && !absl::IsUnavailable(status)) return false;
  SAVIOR_RETURN_IF_ERROR(status);
  return true;
}

absl::Status LocalStore::AwaitCheckpoint(int64_t step, Deadline deadline) {
  while (true) {
    SAVIOR_ASSIGN_OR_RETURN(const bool written, CheckpointWritten(step, deadline));
    if (written) return absl::OkStatus();
    if (SteadyClock::now() + kBetweenLooks >= deadline) return Expired();
    std::this_thread::sleep_for(kBetweenLooks);
  }
}

absl::Status LocalStore::Checkpoint(const fs::path& folder, Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(folder));
  constexpr int64_t kStep = -1;  // of nobody else's
  const absl::Status frozen = Freeze(kStep, {.folder = folder}, deadline);
  const absl::Status written = AwaitCheckpoint(kStep, deadline);
  return frozen.ok() ? written : frozen;
}

absl::StatusOr<std::unique_ptr<RowCursor>> LocalStore::Rows(uint32_t table, Deadline deadline,
                                                            size_t threads) {
  SAVIOR_RETURN_IF_ERROR(CheckTable(tables(), table));
  const size_t shards = host_->shards();
  const SliceReading reading = {
      .table = table,
      .rows = std::clamp(kReadBytes / RowLayout(tables()[table]).bytes(), kLeastRead, kMostRead),
      .threads = std::max<size_t>((threads + shards - 1) / shards, 1)};
  return std::make_unique<RowCursor>(
      host_->shards(),
      [this, reading, deadline](uint32_t s, const RowSlice::Start& start, RowSlice* slice) {
        return RunOn({&s, 1}, deadline, [&](uint32_t, Shard& shard, const Call&) {
          return slice->Fill(&shard, reading, start);
        });
      });
}

absl::Status LocalStore::ForEachRow(uint32_t table, RowVisitor visit, Deadline deadline,
                                    size_t threads) {
  SAVIOR_ASSIGN_OR_RETURN(const std::unique_ptr<RowCursor> cursor, Rows(table, deadline, threads));
  while (true) {
    SAVIOR_ASSIGN_OR_RETURN(const bool more, cursor->Next());
    if (!more) return absl::OkStatus();
    SAVIOR_RETURN_IF_ERROR(visit(cursor->row()));
  }
}

}  // namespace savior
