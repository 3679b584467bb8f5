// LocalStore: the embedding store inside one process, over shards that are threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "common/files.h"
#include "common/partition.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/shard_thread.h"

namespace savior {

struct LocalStoreOptions {
  std::vector<TableSpec> tables;
  uint32_t shards = 1;  // 1 .. kBuckets (common/routing.h)
  // For the hot tiers of all tables and shards. Beside it a shard's cold store takes up to 32 MiB
  // of unflushed rows and about 10 bits per row for filters. A table has at least 16 hot rows per
  // shard, however small the budget. Division: ps/ram_budget.h.
  uint64_t ram_budget_bytes = uint64_t{1} << 30;
  // Where the live databases are. Disposable: what an earlier store left in it is deleted. One
  // store at a time, by a lock in it.
  std::filesystem::path folder;
  uint64_t seed = 0;
  // The clock of eviction: a minute is this many training steps (common/store.h), > 0.
  double steps_per_minute = 1000;
  // What a Checkpoint wrote, by any number of shards; only read. Empty: start without rows.
  std::filesystem::path restore_from = {};
};

// Thread-safe. A call's keys are split by shard, and the shards work on their parts at the same
// time, straight in the caller's spans.
//
// At its deadline a call takes back the parts that no shard has begun, and waits for those begun: a
// Pull ends within some thousand rows, any other at the end of the part. So a call never touches
// its spans after it has returned. A Push that returns an error may be applied to some rows and not
// to others: go back to a commit. Errors beyond the interface's: kInvalidArgument for a gradient
// that is not finite, or a value beyond float16 put into a float16 table (table and key named;
// nothing is applied); kResourceExhausted for a full disk.
class LocalStore final : public EmbeddingStore {
 public:
  // kInvalidArgument: bad tables or counts. kFailedPrecondition: the folder cannot be written to or
  // is in use, or the commit is of another configuration. Errors of restoring: ps/restore.h.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<LocalStore>> Open(LocalStoreOptions options);
  ~LocalStore() override;

  const std::vector<TableSpec>& tables() const override { return options_.tables; }
  [[nodiscard]] absl::Status Pull(std::span<const TablePull> pulls, Deadline deadline) override;
  [[nodiscard]] absl::Status Push(int64_t step, std::span<const TablePush> pushes,
                                  Deadline deadline) override;
  // Done when they return: the shards are in this process, and so are all pushes before.
  [[nodiscard]] absl::StatusOr<Ticket> StartPull(int64_t step, std::span<const TablePull> pulls,
                                                 Deadline deadline) override;
  [[nodiscard]] absl::StatusOr<Ticket> StartPush(int64_t step, std::span<const TablePush> pushes,
                                                 Deadline deadline) override;
  [[nodiscard]] absl::Status Finish(Ticket ticket) override;
  [[nodiscard]] absl::Status Put(std::span<const TablePut> puts, Deadline deadline) override;
  [[nodiscard]] absl::Status Hint(int64_t step, std::span<const TableKeys> keys) override;
  [[nodiscard]] absl::Status CancelHints(int64_t from_step) override;
  [[nodiscard]] absl::StatusOr<std::vector<TableStats>> Stats(Deadline deadline) override;

  // Writes all rows to `folder`/shard-<k>/, none of which may exist; makes `folder` if need be.
  // Files are written, not yet synced (PublishFolder does that). The caller sees to it that nobody
  // pushes or puts meanwhile: then it is one consistent cut.
  [[nodiscard]] absl::Status Checkpoint(const std::filesystem::path& folder, Deadline deadline);

  // Calls `visit` for all rows of a table, on a shard's thread, one shard after the other, keys
  // ascending within a shard. An error of `visit` ends the call and is returned. `visit` must not
  // call this store.
  [[nodiscard]] absl::Status ForEachRow(uint32_t table, RowVisitor visit, Deadline deadline);

  // The threads of the shards, for who serves them to others (ps/server.h). [options.shards]
  uint32_t shards() const { return options_.shards; }
  ShardThread& shard_thread(uint32_t shard) { return *shards_[shard]; }

  // Ends the shards' threads after the calls under way. Later calls return kUnavailable.
  void Stop();

 private:
  class Call;

  LocalStore(LocalStoreOptions options, std::unique_ptr<FileLock> lock);

  // Runs work(shard number, shard, call) on the threads of `shards`, and waits. work may only touch
  // what outlives this call of RunOn.
  template <typename ShardWork>
  absl::Status RunOn(std::span<const uint32_t> shards, Deadline deadline, ShardWork work);
  // Shards that have a part of a request.
  std::vector<uint32_t> Owners(const Partition& partition) const;
  // Runs write(shard, parts without values, their pieces) on the shards that own `requests`, and
  // again where the disk is full, until the deadline.
  template <typename ShardWrite>
  absl::Status Write(std::span<const TableKeys> requests, Deadline deadline, ShardWrite write);

  const LocalStoreOptions options_;
  const std::unique_ptr<FileLock> lock_;
  const std::vector<uint32_t> bucket_map_;
  std::vector<std::unique_ptr<ShardThread>> shards_;
};

}  // namespace savior
