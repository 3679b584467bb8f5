#include "serving/row_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "common/half.h"

namespace savior {
namespace {

constexpr std::array<const char*, 3> kNames = {"float32", "float16", "int8"};
constexpr float kLargest = 127.0f;

ColumnType TypeOf(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return ColumnType::kF32;
    case Precision::kFloat16:
      return ColumnType::kF16;
    case Precision::kInt8:
      return ColumnType::kI8;
  }
  return ColumnType::kF32;
}

void EncodeInt8(std::span<const float> row, std::byte* out) {
  float largest = 0.0f;
  for (const float x : row) largest = std::max(largest, std::abs(x));
  const float scale = largest / kLargest;
  for (size_t i = 0; i < row.size(); ++i) {
    const float q = scale > 0 ? std::nearbyint(row[i] / scale) : 0.0f;
    const auto value = static_cast<int8_t>(std::clamp(q, -kLargest, kLargest));
    out[i] = static_cast<std::byte>(value);
  }
  std::memcpy(out + row.size(), &scale, sizeof(scale));
}

}  // namespace

const char* NameOf(Precision precision) { return kNames[static_cast<size_t>(precision)]; }

absl::StatusOr<Precision> PrecisionNamed(const std::string& name) {
  const auto found = std::ranges::find(kNames, name);
  if (found == kNames.end()) {
    return absl::InvalidArgumentError(
        fmt::format("precision \"{}\": must be float32, float16 or int8", name));
  }
  return static_cast<Precision>(found - kNames.begin());
}

std::vector<Column> RowColumns(const std::string& name, uint32_t dim, Precision precision) {
  std::vector<Column> columns = {{name, TypeOf(precision), dim}};
  if (precision == Precision::kInt8) columns.push_back({name + "_scale", ColumnType::kF32, 1});
  return columns;
}

size_t EncodedBytes(uint32_t dim, Precision precision) {
  size_t bytes = 0;
  for (const Column& column : RowColumns("row", dim, precision)) bytes += column.bytes();
  return bytes;
}

void EncodeRow(std::span<const float> row, Precision precision, std::byte* out) {
  switch (precision) {
    case Precision::kFloat32:
      std::memcpy(out, row.data(), row.size_bytes());
      return;
    case Precision::kFloat16:
      for (size_t i = 0; i < row.size(); ++i) {
        const uint16_t half = HalfOf(std::clamp(row[i], -kMaxHalf, kMaxHalf));
        std::memcpy(out + i * sizeof(half), &half, sizeof(half));
      }
      return;
    case Precision::kInt8:
      EncodeInt8(row, out);
      return;
  }
}

absl::StatusOr<RowDecoder> RowDecoder::Of(const std::vector<Column>& columns,
                                          const std::string& name, uint32_t dim) {
  const auto found = std::ranges::find(columns, name, &Column::name);
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat16, Precision::kInt8}) {
    const std::vector<Column> wanted = RowColumns(name, dim, precision);
    if (static_cast<size_t>(columns.end() - found) >= wanted.size() &&
        std::equal(wanted.begin(), wanted.end(), found)) {
      RowDecoder decoder;
      decoder.precision_ = precision;
      decoder.column_ = static_cast<size_t>(found - columns.begin());
      return decoder;
    }
  }
  return absl::DataLossError(fmt::format("no rows \"{}\" of {} values", name, dim));
}

void RowDecoder::Decode(const TableChain::Place& place, std::span<float> row) const {
  const std::byte* const values = place.file->Value(column_, place.row).data();
  switch (precision_) {
    case Precision::kFloat32:
      std::memcpy(row.data(), values, row.size_bytes());
      return;
    case Precision::kFloat16:
      for (size_t i = 0; i < row.size(); ++i) {
        uint16_t half = 0;
        std::memcpy(&half, values + i * sizeof(half), sizeof(half));
        row[i] = FloatOfHalf(half);
      }
      return;
    case Precision::kInt8: {
      float scale = 0.0f;
      std::memcpy(&scale, place.file->Value(column_ + 1, place.row).data(), sizeof(scale));
      for (size_t i = 0; i < row.size(); ++i) {
        row[i] = scale * static_cast<float>(static_cast<int8_t>(values[i]));
      }
      return;
    }
  }
}

}  // namespace savior
