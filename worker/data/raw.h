// Raw data: a table is one Parquet file or a folder of part files, read in slices and checked.
//
// Every refusal is kInvalidArgument and names the part file, the row in it (counted from 0) and the
// column: "raw/items.parquet: row 7, column 'listed_at': is negative".
#pragma once

#include <arrow/array.h>
#include <arrow/record_batch.h>
#include <arrow/type.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

enum class RawKind : uint8_t {
  kInt,      // integers of any width; no nulls
  kReal,     // floats or integers of any width; finite; no nulls
  kFeature,  // as kReal, but a null is missing and reads as 0
  kText,     // string, large_string, a dictionary of them, or integers (their decimal digits)
  kVector,   // FixedSizeList, List or LargeList of float16, float32 or float64; finite, no nulls
             // inside
};

struct RawColumn {
  std::string name;
  RawKind kind = RawKind::kInt;
};

// Texts of a slice: row r is values[codes[r]], or missing if codes[r] < 0. Values may repeat.
struct RawText {
  std::vector<int32_t> codes;  // [rows]
  std::vector<std::string_view> values;
  std::vector<std::string> owned;  // what values point to where Arrow holds no string
};

// Vectors of a slice as float16 bits. Rows without one are zeros.
struct RawVectors {
  int dim = 0;                   // 0: no row has had a vector yet
  std::vector<uint16_t> halves;  // [rows, dim]
  std::vector<uint8_t> present;  // [rows] 0 or 1
};

// Cells of one column; which member is filled depends on its kind.
struct RawCells {
  std::vector<int64_t> ints;
  std::vector<float> reals;
  RawText text;
  RawVectors vectors;
};

struct RawSlice {
  int64_t first_row = 0;  // number of the first row in the whole table
  int64_t rows = 0;
  std::vector<RawCells> columns;              // in the order asked for
  std::shared_ptr<arrow::RecordBatch> batch;  // what texts point into
};

// A cell that the schema refuses.
struct BadCell {
  int64_t row = 0;  // in the array
  std::string why;
};

// Whether values of `type` can be read as `kind`; `dim` is set to a FixedSizeList's length.
bool Fits(RawKind kind, const arrow::DataType& type, int* dim = nullptr);
// What would have fitted, for a person.
std::string Expected(RawKind kind);

// Reads `array`, whose type fits `kind`, into `cells`. The vectors' `dim` is input, too: a vector
// of another length is a bad cell.
[[nodiscard]] std::optional<BadCell> ReadCells(RawKind kind, const arrow::Array& array,
                                               RawCells* cells);

// Part files of table `name` under `raw`, by name: <raw>/<name>.parquet or <raw>/<name>/*.parquet.
// kNotFound names what is missing.
[[nodiscard]] absl::StatusOr<std::vector<std::filesystem::path>> RawParts(
    const std::filesystem::path& raw, const std::string& name);

// Thread-compatible.
class RawTable {
 public:
  // Opens every part once to read its schema and size.
  [[nodiscard]] static absl::StatusOr<RawTable> Open(const std::filesystem::path& raw,
                                                     const std::string& name);

  int64_t num_rows() const { return num_rows_; }
  // Columns of the first part.
  std::vector<std::string> Names() const;
  std::vector<std::string> NamesWithPrefix(const std::string& prefix) const;
  bool Has(const std::string& column) const;
  // The length that a vector column's type fixes; 0 if only its rows do.
  int FixedDim(const std::string& column) const;

  // Refuses parts that lack one of the columns or have it with a type that does not fit.
  [[nodiscard]] absl::Status Check(const std::vector<RawColumn>& columns) const;

  // Calls `visit` for all rows in order, at most `slice_rows` at a time; the slice is reused. Stops
  // at the first error. The columns must have passed Check.
  [[nodiscard]] absl::Status Scan(const std::vector<RawColumn>& columns, int64_t slice_rows,
                                  const std::function<absl::Status(const RawSlice&)>& visit) const;

  // The refusal of a cell; `row` counts over all parts.
  [[nodiscard]] absl::Status Refuse(int64_t row, const std::string& column,
                                    const std::string& why) const;
  // The refusal of a column of the first part.
  [[nodiscard]] absl::Status RefuseColumn(const std::string& column, const std::string& why) const;
  // "part.parquet: row 7", for messages about two rows.
  std::string Where(int64_t row) const;

 private:
  struct Part {
    std::filesystem::path path;
    int64_t first_row = 0;
    int64_t rows = 0;
    std::shared_ptr<arrow::Schema> schema;
  };

  absl::Status ScanPart(const Part& part, const std::vector<RawColumn>& columns, int64_t slice_rows,
                        const std::function<absl::Status(const RawSlice&)>& visit,
                        RawSlice* slice) const;
  const Part& PartOf(int64_t row) const;

  std::vector<Part> parts_;
  int64_t num_rows_ = 0;
};

}  // namespace savior
