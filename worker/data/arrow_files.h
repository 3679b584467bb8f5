// Arrow IPC files: record batches written whole, read by memory map without copying.
#pragma once

#include <arrow/array.h>
#include <arrow/buffer.h>
#include <arrow/io/type_fwd.h>
#include <arrow/ipc/type_fwd.h>
#include <arrow/record_batch.h>
#include <arrow/status.h>
#include <arrow/type_traits.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"

namespace savior {

// `status` as ours, with `path` before its message: a full disk is kResourceExhausted, a missing
// file kNotFound, other trouble of the system kFailedPrecondition, and bytes that do not decode
// kDataLoss.
[[nodiscard]] absl::Status FromArrow(const arrow::Status& status,
                                     const std::filesystem::path& path);

// Columns of equal length, on their way into a file.
class ColumnSet {
 public:
  void Add(const std::string& name, std::shared_ptr<arrow::Array> column);

  // Takes the vector's memory; nothing is copied.
  template <typename T>
  void AddValues(const std::string& name, std::vector<T> values) {
    using ArrayType = typename arrow::CTypeTraits<T>::ArrayType;
    const auto rows = static_cast<int64_t>(values.size());
    Add(name, std::make_shared<ArrayType>(rows, arrow::Buffer::FromVector(std::move(values))));
  }

  // A file of one batch: these columns. Not durable: the folder's publication syncs it.
  [[nodiscard]] absl::Status Write(const std::filesystem::path& path) const;

  std::shared_ptr<arrow::RecordBatch> ToBatch() const;

 private:
  std::vector<std::shared_ptr<arrow::Field>> fields_;
  std::vector<std::shared_ptr<arrow::Array>> columns_;
};

// Writes a file batch by batch. Single-threaded. Not durable.
class ColumnWriter {
 public:
  explicit ColumnWriter(std::filesystem::path path) : path_(std::move(path)) {}

  // The first batch's columns are the file's.
  [[nodiscard]] absl::Status Append(const ColumnSet& columns);
  // Without it the file is not whole. At least one batch must have been appended.
  [[nodiscard]] absl::Status Close();

 private:
  const std::filesystem::path path_;
  std::shared_ptr<arrow::io::OutputStream> sink_;
  std::shared_ptr<arrow::ipc::RecordBatchWriter> writer_;
};

// One mapped batch of a file. Thread-safe: immutable. Spans live as long as `batch()`.
class MappedColumns {
 public:
  // kDataLoss names a file that has no such batch of well-formed columns.
  [[nodiscard]] static absl::StatusOr<MappedColumns> Open(const std::filesystem::path& path,
                                                          int batch = 0);

  const std::shared_ptr<arrow::RecordBatch>& batch() const { return batch_; }
  int64_t rows() const { return batch_->num_rows(); }

  // kDataLoss names file and column if it is missing, has nulls or is of another type.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<arrow::Array>> Column(
      const std::string& name, const arrow::DataType& type) const;

  template <typename T>
  [[nodiscard]] absl::Status Read(const std::string& name, std::span<const T>* values) const {
    using Traits = arrow::CTypeTraits<T>;
    SAVIOR_ASSIGN_OR_RETURN(const auto column, Column(name, *Traits::type_singleton()));
    const auto& typed = static_cast<const typename Traits::ArrayType&>(*column);
    *values = {typed.raw_values(), static_cast<size_t>(typed.length())};
    return absl::OkStatus();
  }

  [[nodiscard]] absl::Status Damaged(const std::string& why) const;

 private:
  MappedColumns(std::filesystem::path path, std::shared_ptr<arrow::RecordBatch> batch)
      : path_(std::move(path)), batch_(std::move(batch)) {}

  std::filesystem::path path_;
  std::shared_ptr<arrow::RecordBatch> batch_;
};

// A file as a buffer, mapped read-only. An empty file is an empty buffer.
[[nodiscard]] absl::StatusOr<std::shared_ptr<arrow::Buffer>> MapBuffer(
    const std::filesystem::path& path);

}  // namespace savior
