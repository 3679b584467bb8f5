// The rows of one shard on disk: RocksDB, behind an interface of our own.
//
// One database per shard, a column family per table, keys big-endian (so that their byte order is
// their order). The live database is disposable: a commit's checkpoint is the durable truth, and a
// restart clones it by hard links. So there is no write-ahead log: what was written since the last
// Checkpoint is lost with the process.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace rocksdb {
class Env;
}

namespace savior {

// What a database is opened for.
enum class ColdUse : uint8_t {
  kLive,  // to be read and written
  // To be read for a while: table files are mapped, and not merged, which would cost more than it
  // saves. (It can be written.)
  kLook,
};

// Keys `from` to `last`, of which at most `rows` that are there.
struct RowRange {
  uint64_t from = 0;
  uint64_t last = UINT64_MAX;
  uint64_t rows = UINT64_MAX;
};

// Thread-safe, but for a Batch, which has one owner at a time; writes of one key from two threads
// take effect in either order, so its caller sees to it that there is one at a time. Errors:
// kDataLoss (checksum mismatch, missing or torn file; the message names folder, table and what
// RocksDB said, which names the file), kResourceExhausted (no space: reads go on, a failed write
// left no trace and may be tried again; the first one tried half a second after there is room, for
// what is unwritten and 32 MiB, succeeds).
class ColdStore {
 public:
  // Values to write, in the order of Put.
  class Batch {
   public:
    Batch();
    ~Batch();
    Batch(Batch&&) noexcept;
    Batch& operator=(Batch&&) noexcept;

    size_t bytes() const;  // of values, about

   private:
    friend class ColdStore;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  // Opens the database in `folder`, creating what is not there. tables: [t] names; one that the
  // database has and `tables` lacks is kFailedPrecondition.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<ColdStore>> Open(
      const std::filesystem::path& folder, const std::vector<std::string>& tables,
      ColdUse use = ColdUse::kLive);
  ~ColdStore();
  ColdStore(const ColdStore&) = delete;
  ColdStore& operator=(const ColdStore&) = delete;

  // Calls `found`(i, value) for every keys[i] that is there. keys: strictly ascending. An error of
  // `found` ends the call and is returned.
  [[nodiscard]] absl::Status Get(
      uint32_t table, std::span<const uint64_t> keys,
      absl::FunctionRef<absl::Status(size_t, std::string_view)> found) const;

  // Calls `row`(key, value) for what a table has of `range`, keys ascending. An error of `row` ends
  // the call and is returned.
  [[nodiscard]] absl::Status Scan(uint32_t table,
                                  absl::FunctionRef<absl::Status(uint64_t, std::string_view)> row,
                                  const RowRange& range = {}) const;

  [[nodiscard]] absl::Status Put(uint32_t table, uint64_t key, std::string_view value,
                                 Batch* batch) const;
  [[nodiscard]] absl::Status Delete(uint32_t table, uint64_t key, Batch* batch) const;
  // All of `batch` or nothing; empties it either way.
  [[nodiscard]] absl::Status Write(Batch* batch);

  // Writes rows of one table: value(i) is keys[i]'s; keys: strictly ascending. Many at once go
  // straight into a table file, at a quarter of the price of Write, unless the disk has been full
  // since Open. All or nothing.
  [[nodiscard]] absl::Status WriteSorted(uint32_t table, std::span<const uint64_t> keys,
                                         absl::FunctionRef<std::string_view(size_t)> value);

  // A small note beside the tables: it is part of checkpoints.
  [[nodiscard]] absl::Status PutNote(const std::string& name, const std::string& value);
  [[nodiscard]] absl::StatusOr<std::optional<std::string>> GetNote(const std::string& name) const;

  // Calls `note`(name, value) for all whose names begin with `prefix`. An error of `note` ends the
  // call and is returned.
  [[nodiscard]] absl::Status ScanNotes(
      const std::string& prefix,
      absl::FunctionRef<absl::Status(const std::string&, const std::string&)> note) const;

  // Writes what is in memory to table files, so that it outlives this object (not yet a power cut).
  [[nodiscard]] absl::Status Flush();

  // Everything written so far as a database of its own in `folder`, which must not exist; its
  // parent must. Immutable files are hard links if the file system is the same.
  [[nodiscard]] absl::Status Checkpoint(const std::filesystem::path& folder);

  // Reads every file of the database and compares all checksums.
  [[nodiscard]] absl::Status Verify() const;

 private:
  struct Impl;
  explicit ColdStore(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

#ifndef SAVIOR_NO_FAILPOINTS
// For tests: databases opened from now on in this process read and write through `env`, which
// outlives them; null: RocksDB's own.
void UseColdEnv(rocksdb::Env* env);
// For tests: so many rows are from now on enough for WriteSorted to make a table file of them.
// Returns how many were.
size_t WriteFilesFrom(size_t rows);
#endif

// Makes `target`, which must not exist, a copy of the checkpoint `source` that may be opened and
// written to: table files, which RocksDB never changes in place, as hard links (copies on another
// file system), the few small others as copies.
[[nodiscard]] absl::Status CloneCheckpoint(const std::filesystem::path& source,
                                           const std::filesystem::path& target);

}  // namespace savior
