#include "worker/data/parquet_parts.h"

#include <absl/strings/str_format.h>
#include <arrow/util/type_fwd.h>
#include <parquet/properties.h>

#include <utility>

#include "common/files.h"
#include "worker/data/arrow_files.h"

namespace savior {

ParquetParts::ParquetParts(std::filesystem::path folder, std::shared_ptr<arrow::Schema> schema,
                           int64_t rows_per_part)
    : folder_(std::move(folder)), schema_(std::move(schema)), rows_per_part_(rows_per_part) {}

absl::Status ParquetParts::Write(const arrow::RecordBatch& batch) {
  if (writer_ == nullptr) SAVIOR_RETURN_IF_ERROR(OpenPart());
  SAVIOR_RETURN_IF_ERROR(FromArrow(writer_->WriteRecordBatch(batch), path_));
  rows_ += batch.num_rows();
  return rows_ < rows_per_part_ ? absl::OkStatus() : ClosePart();
}

absl::Status ParquetParts::Close() {
  if (parts_ == 0) SAVIOR_RETURN_IF_ERROR(OpenPart());
  return writer_ == nullptr ? absl::OkStatus() : ClosePart();
}

absl::Status ParquetParts::OpenPart() {
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(folder_));
  path_ = folder_ / absl::StrFormat("part-%05d.parquet", parts_++);
  rows_ = 0;
  const auto open = [&]() -> arrow::Status {
    ARROW_ASSIGN_OR_RAISE(sink_, arrow::io::FileOutputStream::Open(path_.string()));
    const auto properties = parquet::WriterProperties::Builder()
                                .compression(arrow::Compression::SNAPPY)
                                ->max_row_group_length(int64_t{1} << 18)
                                ->build();
    // With Arrow's schema in the file, dictionaries and float16 come back as they were.
    const auto arrow_properties = parquet::ArrowWriterProperties::Builder().store_schema()->build();
    ARROW_ASSIGN_OR_RAISE(
        writer_, parquet::arrow::FileWriter::Open(*schema_, arrow::default_memory_pool(), sink_,
                                                  properties, arrow_properties));
    return arrow::Status::OK();
  };
  return FromArrow(open(), path_);
}

absl::Status ParquetParts::ClosePart() {
  const auto writer = std::exchange(writer_, nullptr);
  SAVIOR_RETURN_IF_ERROR(FromArrow(writer->Close(), path_));
  return FromArrow(sink_->Close(), path_);
}

}  // namespace savior
