// Writes a raw table as a folder of part files.
#pragma once

#include <arrow/io/file.h>
#include <arrow/record_batch.h>
#include <parquet/arrow/writer.h>

#include <cstdint>
#include <filesystem>
#include <memory>

#include "common/status.h"

namespace savior {

// Single-threaded. Same batches, same bytes.
class ParquetParts {
 public:
  // Part files are <folder>/part-00000.parquet and so on, of `rows_per_part` rows, give or take a
  // batch; there is at least one.
  ParquetParts(std::filesystem::path folder, std::shared_ptr<arrow::Schema> schema,
               int64_t rows_per_part);

  [[nodiscard]] absl::Status Write(const arrow::RecordBatch& batch);
  [[nodiscard]] absl::Status Close();

 private:
  absl::Status OpenPart();
  absl::Status ClosePart();

  const std::filesystem::path folder_;
  const std::shared_ptr<arrow::Schema> schema_;
  const int64_t rows_per_part_;
  int parts_ = 0;
  int64_t rows_ = 0;  // of the open part
  std::filesystem::path path_;
  std::shared_ptr<arrow::io::FileOutputStream> sink_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;  // nullptr: no part is open
};

}  // namespace savior
