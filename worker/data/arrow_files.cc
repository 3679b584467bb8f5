#include "worker/data/arrow_files.h"

#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/ipc/writer.h>
#include <arrow/util/io_util.h>

#include <cerrno>

namespace savior {

absl::Status FromArrow(const arrow::Status& status, const std::filesystem::path& path) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = path.string() + ": " + status.message();
  if (status.IsOutOfMemory()) return absl::ResourceExhaustedError(message);
  switch (arrow::internal::ErrnoFromStatus(status)) {
    case 0:
      return absl::DataLossError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(message);
    case ENOENT:
      return absl::NotFoundError(message);
    default:
      return absl::FailedPreconditionError(message);
  }
}

void ColumnSet::Add(const std::string& name, std::shared_ptr<arrow::Array> column) {
  fields_.push_back(arrow::field(name, column->type(), /*nullable=*/false));
  columns_.push_back(std::move(column));
}

absl::Status ColumnSet::Write(const std::filesystem::path& path) const {
  const auto schema = arrow::schema(fields_);
  const int64_t rows = columns_.empty() ? 0 : columns_.front()->length();
  const auto batch = arrow::RecordBatch::Make(schema, rows, columns_);
  const auto write = [&]() -> arrow::Status {
    ARROW_ASSIGN_OR_RAISE(auto sink, arrow::io::FileOutputStream::Open(path.string()));
    ARROW_ASSIGN_OR_RAISE(auto writer, arrow::ipc::MakeFileWriter(sink, schema));
    ARROW_RETURN_NOT_OK(writer->WriteRecordBatch(*batch));
    ARROW_RETURN_NOT_OK(writer->Close());
    return sink->Close();
  };
  return FromArrow(write(), path);
}

absl::StatusOr<MappedColumns> MappedColumns::Open(const std::filesystem::path& path) {
  const auto read = [&]() -> arrow::Result<std::shared_ptr<arrow::RecordBatch>> {
    ARROW_ASSIGN_OR_RAISE(
        auto file, arrow::io::MemoryMappedFile::Open(path.string(), arrow::io::FileMode::READ));
    auto options = arrow::ipc::IpcReadOptions::Defaults();
    options.use_threads = false;
    ARROW_ASSIGN_OR_RAISE(auto reader, arrow::ipc::RecordBatchFileReader::Open(file, options));
    if (reader->num_record_batches() != 1) {
      return arrow::Status::Invalid("expected one record batch");
    }
    ARROW_ASSIGN_OR_RAISE(auto batch, reader->ReadRecordBatch(0));
    ARROW_RETURN_NOT_OK(batch->Validate());
    return batch;
  };
  auto batch = read();
  if (!batch.ok()) return FromArrow(batch.status(), path);
  return MappedColumns(path, *batch);
}

absl::StatusOr<std::shared_ptr<arrow::Array>> MappedColumns::Column(
    const std::string& name, const arrow::DataType& type) const {
  auto column = batch_->GetColumnByName(name);
  if (column == nullptr) return Damaged("column '" + name + "' is missing");
  if (!column->type()->Equals(type)) {
    return Damaged("column '" + name + "' is " + column->type()->ToString() + ", not " +
                   type.ToString());
  }
  if (column->null_count() != 0) return Damaged("column '" + name + "' has nulls");
  return column;
}

absl::Status MappedColumns::Damaged(const std::string& why) const {
  return absl::DataLossError(path_.string() + ": " + why);
}

absl::StatusOr<std::shared_ptr<arrow::Buffer>> MapBuffer(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::file_size(path, error) == 0 && !error) {
    return std::make_shared<arrow::Buffer>(nullptr, 0);
  }
  const auto map = [&]() -> arrow::Result<std::shared_ptr<arrow::Buffer>> {
    ARROW_ASSIGN_OR_RAISE(
        auto file, arrow::io::MemoryMappedFile::Open(path.string(), arrow::io::FileMode::READ));
    ARROW_ASSIGN_OR_RAISE(const int64_t size, file->GetSize());
    return file->ReadAt(0, size);
  };
  auto buffer = map();
  if (!buffer.ok()) return FromArrow(buffer.status(), path);
  return *buffer;
}

}  // namespace savior
