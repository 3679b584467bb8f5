// Rows of floats as a bundle keeps them: float32, float16, or int8 with a scale per row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "serving/table_file.h"

namespace savior {

// int8: x is about scale * q with scale = max |x| / 127 and q the nearest integer: an error of half
// a scale at most.
enum class Precision : uint8_t { kFloat32, kFloat16, kInt8 };

const char* NameOf(Precision precision);  // "float32", ...
// kInvalidArgument names the choices.
[[nodiscard]] absl::StatusOr<Precision> PrecisionNamed(const std::string& name);

// Columns of a table of rows [dim]: `name`, and for int8 "<name>_scale".
std::vector<Column> RowColumns(const std::string& name, uint32_t dim, Precision precision);
// Bytes of those columns together.
size_t EncodedBytes(uint32_t dim, Precision precision);
// Writes them to `out`. float16: to the nearest, beyond its range the largest.
void EncodeRow(std::span<const float> row, Precision precision, std::byte* out);

// Reads rows that EncodeRow wrote.
class RowDecoder {
 public:
  RowDecoder() = default;
  // kDataLoss: `columns` lacks RowColumns(name, dim, ...) of any precision.
  [[nodiscard]] static absl::StatusOr<RowDecoder> Of(const std::vector<Column>& columns,
                                                     const std::string& name, uint32_t dim);
  Precision precision() const { return precision_; }
  // row [dim]
  void Decode(const TableChain::Place& place, std::span<float> row) const;

 private:
  Precision precision_ = Precision::kFloat32;
  size_t column_ = 0;
};

}  // namespace savior
