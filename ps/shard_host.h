// Shards of this process, each on its thread: all of a store's, or one server's part of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "common/files.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/shard_thread.h"

namespace savior {

// Removes the folder of a ShardHost of an earlier start, if none has it open: its databases, its
// lock, and the folder itself, unless something else is in it, too. Holds the folder's lock
// meanwhile. kFailedPrecondition: somebody has it, or it is no such folder (it has no lock).
[[nodiscard]] absl::Status RemoveLiveFolder(const std::filesystem::path& folder);

struct ShardHostOptions {
  std::vector<TableSpec> tables;
  uint32_t shards = 1;  // of the whole store: 1 .. kBuckets (common/routing.h)
  // Those of this process: [first, first + count); count 0: all.
  uint32_t first = 0;
  uint32_t count = 0;
  // For the hot tiers of all tables and shards of this process. Beside it a shard's cold store
  // takes up to 32 MiB of unflushed rows and about 10 bits per row for filters. A table has at
  // least 16 hot rows per shard, however small the budget. Division: ps/ram_budget.h.
  uint64_t ram_budget_bytes = uint64_t{1} << 30;
  // Where the live databases are. Disposable: what an earlier store left in it is deleted. One
  // process at a time, by a lock in it.
  std::filesystem::path folder;
  uint64_t seed = 0;
  // The clock of eviction: a minute is this many training steps (common/store.h), > 0.
  double steps_per_minute = 1000;
  // Of each shard, beside the budget, while a checkpoint is written (ps/shard.h).
  std::optional<uint64_t> held_bytes = std::nullopt;
  ColdUse use = ColdUse::kLive;
  // What checkpoints of all shards wrote, any number of them; only read. Empty: start without rows.
  std::filesystem::path restore_from = {};
};

// Thread-compatible; the shards' threads are thread-safe.
class ShardHost {
 public:
  // kInvalidArgument: bad tables or counts. kFailedPrecondition: the folder cannot be written to or
  // is in use, or the commit is of another configuration. Errors of restoring: ps/restore.h.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<ShardHost>> Open(ShardHostOptions options);

  const std::vector<TableSpec>& tables() const { return options_.tables; }
  uint32_t shards() const { return options_.shards; }
  uint32_t first() const { return options_.first; }
  uint32_t count() const { return options_.count; }
  // first() <= shard < first() + count().
  ShardThread& thread(uint32_t shard) { return *threads_[shard - options_.first]; }

  // Ends the shards' threads after the work posted so far.
  void Stop();

 private:
  ShardHost(ShardHostOptions options, std::unique_ptr<FileLock> lock)
      : options_(std::move(options)), lock_(std::move(lock)) {}

  const ShardHostOptions options_;
  const std::unique_ptr<FileLock> lock_;
  std::vector<std::unique_ptr<ShardThread>> threads_;  // [count]
};

}  // namespace savior
