// A table of a bundle: rows sorted by key in one memory-mappable file.
//
// The file is a safetensors file (8-byte little-endian header length, JSON header, raw data), so
// that any tool reads it. Its tensors:
//
//   key       U64 [rows]             strictly ascending
//   index     U64 [ceil(rows / 64)]  every 64th key: a search touches one page of `key`
//   <column>  [rows, width]          one per column, same order
//   gone      U64 [gone]             deltas only: keys of the base that are no more, ascending
//   pad       I8 [0..7]              aligns what comes behind it
//
// A delta has the rows that are new or changed since its base. Metadata: "format"
// "savior.table.1", "delta" "0" or "1". Same rows, same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

// Names are the format's: "F32", ...
enum class ColumnType : uint8_t { kF32, kF16, kI8, kU16, kI32, kU32, kI64, kU64 };

size_t WidthOf(ColumnType type);  // bytes of a value

struct Column {
  std::string name;  // not "key", "index", "gone" or "pad"
  ColumnType type = ColumnType::kF32;
  uint32_t width = 1;  // values per row, > 0

  size_t bytes() const { return width * WidthOf(type); }
  bool operator==(const Column&) const = default;
};

// A mapped file. Immutable, thread-safe. Opening checks the layout, not the bytes (their digests
// are in the bundle's manifest) nor the order of the keys (CheckOrder).
class TableFile {
 public:
  // kDataLoss: not such a file (what and where); kNotFound: none.
  [[nodiscard]] static absl::StatusOr<std::shared_ptr<const TableFile>> Open(
      const std::filesystem::path& path);
  ~TableFile();
  TableFile(const TableFile&) = delete;
  TableFile& operator=(const TableFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  bool delta() const { return delta_; }
  uint64_t rows() const { return keys_.size(); }
  std::span<const uint64_t> keys() const { return keys_; }
  std::span<const uint64_t> gone() const { return gone_; }
  const std::vector<Column>& columns() const { return columns_; }
  size_t record_bytes() const { return record_bytes_; }

  // Values of one column in one row.
  std::span<const std::byte> Value(size_t column, uint64_t row) const {
    const size_t bytes = columns_[column].bytes();
    return {data_[column] + row * bytes, bytes};
  }
  // The row's columns one after the other: writes record_bytes().
  void CopyRecord(uint64_t row, std::byte* record) const;

  // The row of `key`, if it is there.
  std::optional<uint64_t> Find(uint64_t key) const;
  bool IsGone(uint64_t key) const;

  // kDataLoss unless keys and gone ascend and the index is of the keys. Reads both.
  [[nodiscard]] absl::Status CheckOrder() const;

 private:
  explicit TableFile(std::filesystem::path path) : path_(std::move(path)) {}
  absl::Status Map();
  absl::Status ParseHeader();

  const std::filesystem::path path_;
  const std::byte* map_ = nullptr;
  size_t map_bytes_ = 0;
  bool delta_ = false;
  std::vector<Column> columns_;
  std::vector<const std::byte*> data_;  // [columns]
  size_t record_bytes_ = 0;
  std::span<const uint64_t> keys_, index_, gone_;
};

// A full table and the deltas since, oldest first: reads as the full table that they amount to.
// Immutable, thread-safe.
class TableChain {
 public:
  TableChain() = default;
  // kFailedPrecondition: the first is a delta, a later one is full, or columns differ.
  [[nodiscard]] static absl::StatusOr<TableChain> Of(
      std::vector<std::shared_ptr<const TableFile>> files);

  struct Place {
    const TableFile* file = nullptr;
    uint64_t row = 0;
    uint64_t key() const { return file->keys()[row]; }
  };
  std::optional<Place> Find(uint64_t key) const;

  bool empty() const { return files_.empty(); }
  const std::vector<Column>& columns() const { return files_.front()->columns(); }
  const std::vector<std::shared_ptr<const TableFile>>& files() const { return files_; }

  // Walks over all rows by ascending key. The chain outlives it. Single-threaded.
  class Cursor {
   public:
    explicit Cursor(const TableChain* chain);
    // Nothing at the end.
    const std::optional<Place>& at() const { return at_; }
    void Next();

   private:
    const TableChain* const chain_;
    std::vector<uint64_t> next_, next_gone_;  // [files] positions
    std::optional<Place> at_;
  };

 private:
  std::vector<std::shared_ptr<const TableFile>> files_;
};

// Writes a table in one pass. Single-threaded; memory: a few MiB. What is not Finished is deleted.
class TableWriter {
 public:
  struct Counts {
    uint64_t rows = 0, gone = 0;  // written
    uint64_t total = 0;           // added: rows of the full table
  };

  // `base`: null for a full table; else only what differs from it is written. It outlives the
  // writer and has the same columns (kFailedPrecondition if not).
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<TableWriter>> Create(
      const std::filesystem::path& path, std::vector<Column> columns, const TableChain* base);
  ~TableWriter();
  TableWriter(const TableWriter&) = delete;
  TableWriter& operator=(const TableWriter&) = delete;

  // The columns of a row one after the other. Keys strictly ascending.
  [[nodiscard]] absl::Status Add(uint64_t key, std::span<const std::byte> record);
  // Not yet synced.
  [[nodiscard]] absl::StatusOr<Counts> Finish();

 private:
  class Spool;
  TableWriter(std::filesystem::path path, std::vector<Column> columns, const TableChain* base);
  absl::Status Open();
  // Keys of the base below `key` are gone; whether the base has `key` with this very record.
  absl::StatusOr<bool> PassBase(uint64_t key, std::span<const std::byte> record);
  std::string Header() const;

  const std::filesystem::path path_;
  const std::vector<Column> columns_;
  const TableChain* const base_;
  std::optional<TableChain::Cursor> cursor_;
  std::vector<std::byte> base_record_;
  size_t record_bytes_ = 0;
  std::vector<size_t> order_;  // of the columns in the file: the widest first
  // The widest column goes straight into the file, behind room for the header; the others to files
  // beside it, and then behind.
  std::vector<std::unique_ptr<Spool>> columns_out_;  // [columns]
  std::unique_ptr<Spool> keys_out_, index_out_, gone_out_;
  std::optional<uint64_t> last_key_;
  Counts counts_;
};

}  // namespace savior
