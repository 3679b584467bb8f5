// A shard: its slice of every table, over one cold store.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/digest_cache.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/checkpoint_place.h"
#include "ps/cold_store.h"
#include "ps/cold_thread.h"
#include "ps/table.h"

namespace savior {

struct ShardOptions {
  uint32_t number = 0;  // < shards
  uint32_t shards = 1;
  std::vector<TableSpec> tables;
  uint64_t ram_budget_bytes = 0;  // of this shard: hot tiers of all tables together
  uint64_t seed = 0;
  double steps_per_minute = 1000;  // the clock of the tables' rules
  std::filesystem::path folder;    // the live database: empty, or as ps/restore.h left it
  // RAM beside the budget while a checkpoint is written, once for copies of rows and once for rows
  // that leave RAM. Beyond it, and what one request adds, requests wait until enough is written.
  // None: 64 MiB, or a quarter of the budget if that is more.
  std::optional<uint64_t> held_bytes = std::nullopt;
  ColdUse use = ColdUse::kLive;
};

// Rows of one table that a request brings.
struct WritePart {
  uint32_t table = 0;
  RowSelection selection;
  const float* values = nullptr;      // gradients of a push, rows of a put or write
  const uint32_t* updates = nullptr;  // of a write
};

// Single-threaded: one thread owns it. A second thread of its own reads hinted rows and writes rows
// that are about to leave RAM; its results are taken in at the start of each call, and by Tend.
//
// A checkpoint holds the rows as they are when Freeze is called, and is written while requests go
// on: a slice of the rows at the start of each call and by Tend, handed to the second thread, which
// at the end makes a database of them (ps/table.h: how a cut is kept; ps/shard_checkpoint.cc).
//
// A full disk is no failure: reads go on, and Push, Put and WriteRows return kResourceExhausted
// before they have applied anything, so that they may be tried again. After kDataLoss of any call,
// or any error of Push (some rows may be updated, others not), the shard has failed: it serves
// nothing any more, and every call but AddStats returns that error again. Rather no answer than a
// wrong one.
class Shard {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Shard>> Open(const ShardOptions& options);

  // `wake` is called by another thread when there is something for Tend to do.
  void SetWake(std::function<void()> wake);

  // As Table's. All parts of a push, put or write are applied, or none if it is
  // kResourceExhausted.
  [[nodiscard]] absl::Status Pull(uint32_t table, const RowSelection& selection, float* rows,
                                  uint32_t* updates);
  [[nodiscard]] absl::Status Push(int64_t step, std::span<const WritePart> parts);
  [[nodiscard]] absl::Status Put(std::span<const WritePart> parts);
  [[nodiscard]] absl::Status ReadRows(uint32_t table, const RowSelection& selection, float* rows,
                                      uint32_t* updates);
  [[nodiscard]] absl::Status WriteRows(int64_t step, std::span<const WritePart> parts);
  [[nodiscard]] absl::Status Hint(uint32_t table, int64_t step, std::span<const uint64_t> keys);
  [[nodiscard]] absl::Status CancelHints(int64_t from_step);

  // Some work ahead of need, for some hundred microseconds at most; for when there is nothing else
  // to do. False: there is none at present.
  bool Tend();
  // Takes in all results of the second thread, waiting for them: what hints asked for is in RAM.
  [[nodiscard]] absl::Status Quiesce();

  // Visits `ranges` of a table's rows as they are now (Table::VisitRows) at the same time, the
  // first on this thread, each other on one of its own: `visit`(r, row) for the rows of ranges[r].
  // Returns where to go on in each. An error of `visit` is returned, and is not the shard's; of
  // several the first by range, but the shard's before all.
  using RangeVisitor = absl::FunctionRef<absl::Status(size_t, const StoredRow&)>;
  [[nodiscard]] absl::StatusOr<std::vector<std::optional<uint64_t>>> VisitRows(
      uint32_t table, std::span<const RowRange> ranges, RangeVisitor visit);

  // Begins a checkpoint of the rows as they are now, under the name `step`. Takes no longer than
  // the rules' state takes to copy, unless rows held back by the one before are still unwritten
  // (kResourceExhausted: they cannot be). kFailedPrecondition names the one that is under way.
  [[nodiscard]] absl::Status Freeze(int64_t step, const CheckpointPlace& place);
  // What has become of the newest checkpoint: nothing while it is being written. Not OK: there is
  // none, and all rows are as if there never had been. kResourceExhausted: the disk is full.
  // kFailedPrecondition: the newest one is not `step`'s.
  [[nodiscard]] std::optional<absl::Status> CheckpointOf(int64_t step);
  // Waits for the end of the checkpoint that is under way, if one is. An error is the shard's.
  [[nodiscard]] absl::Status FinishCheckpoint();

  // Adds this shard's figures to `stats` [tables].
  void AddStats(std::span<TableStats> stats) const;

 private:
  Shard(const ShardOptions& options, std::unique_ptr<ColdStore> cold);

  // Remembers an error that ends the shard, and returns `status`.
  absl::Status Remember(absl::Status status, bool fatal);
  absl::Status AlreadyFailed() const;
  // Now and then divides the RAM anew.
  [[nodiscard]] absl::Status DivideRam();
  [[nodiscard]] absl::Status TakeIn(ColdJob job);
  // AlreadyFailed, after the results that are there have been taken in, and a checkpoint has gone
  // on.
  [[nodiscard]] absl::Status Begin();
  // Whether the disk was full a moment ago: writes ahead of need wait.
  bool AfterFullDisk();

  // The checkpoint under way.
  struct Checkpointing {
    int64_t step = 0;
    CheckpointPlace place;
    ColdCheckpoint job;        // until `posted`
    size_t slices = 0;         // under way
    uint64_t slice_bytes = 0;  // of those
    bool posted = false;       // job, after the last slice
    absl::Status failed;       // why there will be none
  };
  struct WrittenCheckpoint {
    int64_t step = 0;
    absl::Status status;
  };
  // Posts the next job of the checkpoint under way, or of what it held back. False: none at
  // present.
  bool GoOnWriting();
  // Posts what `table` has collected, if it is worth a job.
  bool PostSlice(Table* table);
  bool PostHeld();
  // Takes in the next result of the second thread, waiting for it. There is one.
  [[nodiscard]] absl::Status WaitForJob();
  [[nodiscard]] absl::Status TakeInSlice(const ColdSlice& slice);
  [[nodiscard]] absl::Status TakeInCheckpoint(const ColdCheckpoint& job);
  void EndCheckpoint(absl::Status status);
  size_t HeldBytes() const;
  // Writes what is held back until it is `most` bytes. kResourceExhausted: the disk is full.
  [[nodiscard]] absl::Status WriteHeld(size_t most);
  // Lets a checkpoint go on, and keeps what it costs in RAM within its bounds.
  [[nodiscard]] absl::Status KeepUp();
  // Before a push, put or write applies anything.
  [[nodiscard]] absl::Status PrepareToWrite(std::span<const WritePart> parts);
  // Gives the second thread what is worth doing now.
  [[nodiscard]] absl::Status WorkAhead();

  const ShardOptions options_;
  const std::unique_ptr<ColdStore> cold_;
  std::vector<std::unique_ptr<Table>> tables_;
  uint64_t requests_ = 0;
  absl::Status failure_;
  DigestCache digests_;
  std::optional<Checkpointing> checkpoint_;
  std::optional<WrittenCheckpoint> written_;  // the newest

  std::mutex wake_mutex_;
  std::function<void()> wake_;                // guarded by wake_mutex_
  SteadyClock::time_point clean_after_ = {};  // after a full disk
  std::unique_ptr<ColdThread> cold_thread_;   // last: it calls wake_ and uses cold_
};

}  // namespace savior
