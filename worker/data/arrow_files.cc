#include "worker/data/arrow_files.h"

#include <arrow/io/file.h>
#include <arrow/ipc/reader.h>
#include <arrow/ipc/writer.h>
#include <arrow/util/io_util.h>

#include "common/files.h"

namespace savior {

absl::Status FromArrow(const arrow::Status& status, const std::filesystem::path& path) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = path.string() + ": " + status.message();
  if (status.IsOutOfMemory()) return absl::ResourceExhaustedError(message);
  // Arrow keeps the system's reason ("No space left on device") apart from its message.
  const int error = arrow::internal::ErrnoFromStatus(status);
  return error != 0 ? SystemError(error, message) : absl::DataLossError(message);
}

void ColumnSet::Add(const std::string& name, std::shared_ptr<arrow::Array> column) {
  fields_.push_back(arrow::field(name, column->type(), /*nullable=*/false));
  columns_.push_back(std::move(column));
}

std::shared_ptr<arrow::RecordBatch> ColumnSet::ToBatch() const {
  const int64_t rows = columns_.empty() ? 0 : columns_.front()->length();
  return arrow::RecordBatch::Make(arrow::schema(fields_), rows, columns_);
}

absl::Status ColumnSet::Write(const std::filesystem::path& path) const {
  ColumnWriter writer(path);
  SAVIOR_RETURN_IF_ERROR(writer.Append(*this));
  return writer.Close();
}

absl::Status ColumnWriter::Append(const ColumnSet& columns) {
  const auto batch = columns.ToBatch();
  const auto write = [&]() -> arrow::Status {
    if (writer_ == nullptr) {
      ARROW_ASSIGN_OR_RAISE(sink_, arrow::io::FileOutputStream::Open(path_.string()));
      ARROW_ASSIGN_OR_RAISE(writer_, arrow::ipc::MakeFileWriter(sink_, batch->schema()));
    }
    return writer_->WriteRecordBatch(*batch);
  };
  return FromArrow(write(), path_);
}

absl::Status ColumnWriter::Close() {
  SAVIOR_RETURN_IF_ERROR(FromArrow(writer_->Close(), path_));
  return FromArrow(sink_->Close(), path_);
}

absl::StatusOr<MappedColumns> MappedColumns::Open(const std::filesystem::path& path,
                                                  int batch_number) {
  const auto read = [&]() -> arrow::Result<std::shared_ptr<arrow::RecordBatch>> {
    ARROW_ASSIGN_OR_RAISE(
        auto file, arrow::io::MemoryMappedFile::Open(path.string(), arrow::io::FileMode::READ));
    auto options = arrow::ipc::IpcReadOptions::Defaults();
    options.use_threads = false;
    ARROW_ASSIGN_OR_RAISE(auto reader, arrow::ipc::RecordBatchFileReader::Open(file, options));
    if (batch_number < 0 || batch_number >= reader->num_record_batches()) {
      return arrow::Status::Invalid("has no record batch ", batch_number);
    }
    ARROW_ASSIGN_OR_RAISE(auto batch, reader->ReadRecordBatch(batch_number));
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
