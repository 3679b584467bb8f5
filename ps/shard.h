// A shard: its slice of every table, over one cold store.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/store.h"
#include "ps/cold_store.h"
#include "ps/table.h"

namespace savior {

struct ShardOptions {
  uint32_t number = 0;  // < shards
  uint32_t shards = 1;
  std::vector<TableSpec> tables;
  uint64_t ram_budget_bytes = 0;  // of this shard: hot tiers of all tables together
  uint64_t seed = 0;
  std::filesystem::path folder;  // the live database: empty, or as ps/restore.h left it
};

// Single-threaded: one thread owns it. After kDataLoss of any call, or any error of Push (some rows
// may be updated, others not), the shard has failed: it serves nothing any more, and every call
// returns that error again. Rather no answer than a wrong one.
class Shard {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Shard>> Open(const ShardOptions& options);

  // As Table's.
  [[nodiscard]] absl::Status Pull(uint32_t table, const RowSelection& selection, float* rows,
                                  uint32_t* updates);
  [[nodiscard]] absl::Status Push(uint32_t table, int64_t step, const RowSelection& selection,
                                  const float* grads);
  [[nodiscard]] absl::Status Put(uint32_t table, const RowSelection& selection, const float* rows);
  [[nodiscard]] absl::Status BringUp(uint32_t table, std::span<const uint64_t> keys);
  [[nodiscard]] absl::Status ForEachRow(uint32_t table, RowVisitor visit);

  // Writes all rows as they are now to a database in `folder`, which must not exist; its parent
  // must.
  [[nodiscard]] absl::Status Checkpoint(const std::filesystem::path& folder);

  // Adds this shard's figures to `stats` [tables].
  void AddStats(std::span<TableStats> stats) const;

 private:
  Shard(const ShardOptions& options, std::unique_ptr<ColdStore> cold);

  // Remembers an error that ends the shard, and returns `status`.
  absl::Status Remember(absl::Status status, bool fatal);
  absl::Status AlreadyFailed() const;
  // Now and then divides the RAM anew.
  [[nodiscard]] absl::Status DivideRam();

  const ShardOptions options_;
  const std::unique_ptr<ColdStore> cold_;
  std::vector<std::unique_ptr<Table>> tables_;
  uint64_t requests_ = 0;
  absl::Status failure_;
};

}  // namespace savior
