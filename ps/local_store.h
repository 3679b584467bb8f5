// LocalStore: the embedding store inside one process, over shards that are threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "common/partition.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/row_cursor.h"
#include "ps/shard_host.h"

namespace savior {

// `first` and `count` are ignored: a local store has all shards.
using LocalStoreOptions = ShardHostOptions;

// Thread-safe. A call's keys are split by shard, and the shards work on their parts at the same
// time, straight in the caller's spans.
//
// At its deadline a call takes back the parts that no shard has begun, and waits for those begun: a
// Pull or ReadRows ends within some thousand rows, any other at the end of the part. So a call
// never touches its spans after it has returned. A Push that returns an error may be applied to
// some rows and not to others: go back to a commit. Errors beyond the interface's: kInvalidArgument
// for a gradient that is not finite, or a value beyond float16 put into a float16 table (table and
// key named; nothing is applied); kResourceExhausted for a full disk.
class LocalStore final : public EmbeddingStore {
 public:
  // Errors: ShardHost::Open's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<LocalStore>> Open(LocalStoreOptions options);
  ~LocalStore() override;

  const std::vector<TableSpec>& tables() const override { return host_->tables(); }
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
  [[nodiscard]] absl::Status ReadRows(std::span<const TableRead> reads, Deadline deadline) override;
  [[nodiscard]] absl::Status WriteRows(int64_t step, std::span<const TableWrite> writes,
                                       Deadline deadline) override;
  [[nodiscard]] absl::Status Hint(int64_t step, std::span<const TableKeys> keys) override;
  [[nodiscard]] absl::Status CancelHints(int64_t from_step) override;
  [[nodiscard]] absl::StatusOr<StoreStats> Stats(Deadline deadline) override;

  // Begins checkpoints of all rows as they are now, under the name `step`, to
  // `place.folder`/shard-<k>/, none of which may exist; `place.base`: an earlier one's folder
  // (ps/checkpoint_place.h). Returns when all shards have frozen: from then on pushes may come. The
  // caller sees to it that nobody pushes or puts before: then it is one consistent cut. If a shard
  // refuses (Shard::Freeze), others may go on writing theirs: AwaitCheckpoint says when they are
  // done.
  [[nodiscard]] absl::Status Freeze(int64_t step, const CheckpointPlace& place, Deadline deadline);
  // False: a shard still writes its checkpoint of `step`. True: all have written it; files are not
  // yet synced (PublishFolder does that). Errors: none writes any more, and what the first one said
  // that has none (Shard::CheckpointOf).
  [[nodiscard]] absl::StatusOr<bool> CheckpointWritten(int64_t step, Deadline deadline);
  // Asks so until no shard writes.
  [[nodiscard]] absl::Status AwaitCheckpoint(int64_t step, Deadline deadline);
  // Both in one.
  [[nodiscard]] absl::Status Checkpoint(const std::filesystem::path& folder, Deadline deadline);

  // Calls `visit` for all rows of a table, on this thread, keys ascending over all shards. An error
  // of `visit` ends the call and is returned. Rows pushed meanwhile may be seen or not. `threads`,
  // at least one for each shard, read ahead of this one, a few MiB each; they change nothing
  // of what is seen.
  [[nodiscard]] absl::Status ForEachRow(uint32_t table, RowVisitor visit, Deadline deadline,
                                        size_t threads = 1);

  // The same, for who walks at a pace of its own. The store outlives the cursor.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<RowCursor>> Rows(uint32_t table, Deadline deadline,
                                                                size_t threads = 1);

  // The shards, for who serves them to others (ps/server.h).
  ShardHost& host() { return *host_; }

  // Ends the shards' threads after the calls under way. Later calls return kUnavailable.
  void Stop() { host_->Stop(); }

 private:
  class Call;

  explicit LocalStore(std::unique_ptr<ShardHost> host);

  // Runs work(shard number, shard, call) on the threads of `shards`, and waits. work may only touch
  // what outlives this call of RunOn.
  template <typename ShardWork>
  absl::Status RunOn(std::span<const uint32_t> shards, Deadline deadline, ShardWork work);
  // Runs work(shard number, shard, call) on all shards, in the same way.
  template <typename ShardWork>
  absl::Status RunOnAll(Deadline deadline, ShardWork work);
  // Shards that have a part of a request.
  std::vector<uint32_t> Owners(const Partition& partition) const;
  // Runs read(shard, piece, a slice of its selection) for all keys of `requests`, looking now and
  // then whether the caller still waits.
  template <typename ShardRead>
  absl::Status Read(std::span<const TableKeys> requests, Deadline deadline, ShardRead read);
  // Runs write(shard, parts without values, their pieces) on the shards that own `requests`, and
  // again where the disk is full, until the deadline.
  template <typename ShardWrite>
  absl::Status Write(std::span<const TableKeys> requests, Deadline deadline, ShardWrite write);

  const std::unique_ptr<ShardHost> host_;
  const std::vector<uint32_t> bucket_map_;
};

}  // namespace savior
