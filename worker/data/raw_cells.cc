// From the many Arrow types that raw data comes in to the few that we compute with.
#include <absl/container/flat_hash_map.h>
#include <absl/strings/str_cat.h>
#include <arrow/array.h>
#include <arrow/type.h>
#include <arrow/util/float16.h>

#include <cmath>
#include <limits>

#include "worker/data/raw.h"

namespace savior {
namespace {

using arrow::Type;
using arrow::util::Float16;

constexpr char kMissing[] = "is missing";

bool IsInteger(const arrow::DataType& type) { return arrow::is_integer(type.id()); }

bool IsFloat(const arrow::DataType& type) { return arrow::is_floating(type.id()); }

bool IsString(const arrow::DataType& type) {
  return type.id() == Type::STRING || type.id() == Type::LARGE_STRING;
}

// Calls `visit` with the array cast to its integer type.
template <typename Visit>
auto VisitIntegers(const arrow::Array& array, Visit visit) {
  switch (array.type_id()) {
    case Type::INT8:
      return visit(static_cast<const arrow::Int8Array&>(array));
    case Type::INT16:
      return visit(static_cast<const arrow::Int16Array&>(array));
    case Type::INT32:
      return visit(static_cast<const arrow::Int32Array&>(array));
    case Type::UINT8:
      return visit(static_cast<const arrow::UInt8Array&>(array));
    case Type::UINT16:
      return visit(static_cast<const arrow::UInt16Array&>(array));
    case Type::UINT32:
      return visit(static_cast<const arrow::UInt32Array&>(array));
    case Type::UINT64:
      return visit(static_cast<const arrow::UInt64Array&>(array));
    default:
      return visit(static_cast<const arrow::Int64Array&>(array));
  }
}

// Calls `visit` with a function from index to float.
template <typename Visit>
auto VisitFloats(const arrow::Array& array, Visit visit) {
  switch (array.type_id()) {
    case Type::HALF_FLOAT: {
      const uint16_t* values = static_cast<const arrow::HalfFloatArray&>(array).raw_values();
      return visit([values](int64_t i) { return Float16::FromBits(values[i]).ToFloat(); });
    }
    case Type::DOUBLE: {
      const double* values = static_cast<const arrow::DoubleArray&>(array).raw_values();
      return visit([values](int64_t i) { return static_cast<float>(values[i]); });
    }
    default: {
      const float* values = static_cast<const arrow::FloatArray&>(array).raw_values();
      return visit([values](int64_t i) { return values[i]; });
    }
  }
}

std::optional<BadCell> ReadInts(const arrow::Array& array, std::vector<int64_t>* ints) {
  ints->resize(static_cast<size_t>(array.length()));
  return VisitIntegers(array, [&](const auto& typed) -> std::optional<BadCell> {
    const auto* values = typed.raw_values();
    const bool nulls = typed.null_count() > 0;
    for (int64_t i = 0; i < typed.length(); ++i) {
      if (nulls && typed.IsNull(i)) return BadCell{i, kMissing};
      if (!std::in_range<int64_t>(values[i])) return BadCell{i, "does not fit int64"};
      // int8 is a number here. NOLINTNEXTLINE(bugprone-signed-char-misuse)
      (*ints)[static_cast<size_t>(i)] = static_cast<int64_t>(values[i]);
    }
    return std::nullopt;
  });
}

std::optional<BadCell> ReadReals(const arrow::Array& array, bool null_is_zero,
                                 std::vector<float>* reals) {
  reals->resize(static_cast<size_t>(array.length()));
  const auto read = [&](const auto& value_at) -> std::optional<BadCell> {
    for (int64_t i = 0; i < array.length(); ++i) {
      float& real = (*reals)[static_cast<size_t>(i)];
      if (array.IsNull(i)) {
        if (!null_is_zero) return BadCell{i, kMissing};
        real = 0.0f;
        continue;
      }
      real = value_at(i);
      if (!std::isfinite(real)) return BadCell{i, "is NaN, infinite or beyond float32"};
    }
    return std::nullopt;
  };
  if (IsFloat(*array.type())) return VisitFloats(array, read);
  return VisitIntegers(array, [&](const auto& typed) {
    return read([&typed](int64_t i) { return static_cast<float>(typed.Value(i)); });
  });
}

// The strings of an array as they are: code = index.
void ReadStrings(const arrow::Array& array, RawText* text) {
  const auto read = [&](const auto& strings) {
    for (int64_t i = 0; i < strings.length(); ++i) {
      const auto view = strings.IsNull(i) ? std::string_view() : strings.GetView(i);
      text->values.push_back(view);
      text->codes.push_back(strings.IsNull(i) ? -1 : static_cast<int32_t>(i));
    }
  };
  if (array.type_id() == Type::STRING) {
    read(static_cast<const arrow::StringArray&>(array));
  } else {
    read(static_cast<const arrow::LargeStringArray&>(array));
  }
}

std::optional<BadCell> ReadDictionary(const arrow::DictionaryArray& array, RawText* text) {
  ReadStrings(*array.dictionary(), text);
  const std::vector<int32_t> of_entry = std::move(text->codes);  // -1 for null entries
  text->codes.assign(static_cast<size_t>(array.length()), -1);
  return VisitIntegers(*array.indices(), [&](const auto& indices) -> std::optional<BadCell> {
    for (int64_t i = 0; i < indices.length(); ++i) {
      if (indices.IsNull(i)) continue;
      // A negative one wraps to beyond the end. NOLINTNEXTLINE(bugprone-signed-char-misuse)
      const auto entry = static_cast<uint64_t>(indices.Value(i));
      if (entry >= of_entry.size()) return BadCell{i, "refers to no dictionary entry"};
      text->codes[static_cast<size_t>(i)] = of_entry[entry];
    }
    return std::nullopt;
  });
}

void ReadDigits(const arrow::Array& array, RawText* text) {
  absl::flat_hash_map<int64_t, int32_t> places;
  VisitIntegers(array, [&](const auto& integers) {
    for (int64_t i = 0; i < integers.length(); ++i) {
      if (integers.IsNull(i)) {
        text->codes.push_back(-1);
        continue;
      }
      const auto value = integers.Value(i);
      const auto [place, fresh] =
          places.try_emplace(static_cast<int64_t>(value), static_cast<int32_t>(text->owned.size()));
      if (fresh) text->owned.push_back(absl::StrCat(value));
      text->codes.push_back(place->second);
    }
  });
  text->values.assign(text->owned.begin(), text->owned.end());
}

std::optional<BadCell> ReadText(const arrow::Array& array, RawText* text) {
  text->codes.clear();
  text->values.clear();
  text->owned.clear();
  if (array.type_id() == Type::DICTIONARY) {
    return ReadDictionary(static_cast<const arrow::DictionaryArray&>(array), text);
  }
  if (IsString(*array.type())) {
    ReadStrings(array, text);
  } else {
    ReadDigits(array, text);
  }
  return std::nullopt;
}

// `lists` is any of Arrow's list arrays.
template <typename Lists>
std::optional<BadCell> ReadLists(const Lists& lists, RawVectors* vectors) {
  const arrow::Array& flat = *lists.values();
  const auto rows = static_cast<size_t>(lists.length());
  vectors->present.assign(rows, 0);
  for (int64_t i = 0; i < lists.length(); ++i) {
    if (lists.IsNull(i)) continue;
    const auto length = static_cast<int64_t>(lists.value_length(i));
    if (length == 0) return BadCell{i, "is an empty vector"};
    if (length > std::numeric_limits<int>::max() / 4) return BadCell{i, "is too long a vector"};
    if (vectors->dim == 0) vectors->dim = static_cast<int>(length);
    if (length != vectors->dim) {
      return BadCell{i, absl::StrCat("has ", length, " elements where others have ", vectors->dim)};
    }
    vectors->present[static_cast<size_t>(i)] = 1;
  }
  const auto dim = static_cast<size_t>(vectors->dim);
  vectors->halves.assign(rows * dim, 0);
  const bool nulls = flat.null_count() > 0;
  return VisitFloats(flat, [&](const auto& value_at) -> std::optional<BadCell> {
    for (size_t row = 0; row < rows; ++row) {
      if (vectors->present[row] == 0) continue;
      const auto begin = static_cast<int64_t>(lists.value_offset(static_cast<int64_t>(row)));
      for (size_t d = 0; d < dim; ++d) {
        const int64_t at = begin + static_cast<int64_t>(d);
        if (nulls && flat.IsNull(at)) return BadCell{static_cast<int64_t>(row), "has a gap"};
        const Float16 half = Float16::FromFloat(value_at(at));
        if (!half.is_finite()) {
          return BadCell{static_cast<int64_t>(row),
                         absl::StrCat("element ", d, " is NaN, infinite or beyond float16")};
        }
        vectors->halves[row * dim + d] = half.bits();
      }
    }
    return std::nullopt;
  });
}

std::optional<BadCell> ReadVectors(const arrow::Array& array, RawVectors* vectors) {
  switch (array.type_id()) {
    case Type::FIXED_SIZE_LIST:
      return ReadLists(static_cast<const arrow::FixedSizeListArray&>(array), vectors);
    case Type::LARGE_LIST:
      return ReadLists(static_cast<const arrow::LargeListArray&>(array), vectors);
    default:
      return ReadLists(static_cast<const arrow::ListArray&>(array), vectors);
  }
}

bool FitsVector(const arrow::DataType& type, int* dim) {
  if (type.id() != Type::FIXED_SIZE_LIST && type.id() != Type::LIST &&
      type.id() != Type::LARGE_LIST) {
    return false;
  }
  if (!IsFloat(*static_cast<const arrow::BaseListType&>(type).value_type())) return false;
  if (dim != nullptr && type.id() == Type::FIXED_SIZE_LIST) {
    *dim = static_cast<const arrow::FixedSizeListType&>(type).list_size();
  }
  return true;
}

}  // namespace

bool Fits(RawKind kind, const arrow::DataType& type, int* dim) {
  switch (kind) {
    case RawKind::kInt:
      return IsInteger(type);
    case RawKind::kReal:
    case RawKind::kFeature:
      return IsInteger(type) || IsFloat(type);
    case RawKind::kText:
      if (type.id() == Type::DICTIONARY) {
        return IsString(*static_cast<const arrow::DictionaryType&>(type).value_type());
      }
      return IsString(type) || IsInteger(type);
    case RawKind::kVector:
      return FitsVector(type, dim);
  }
  return false;
}

std::string Expected(RawKind kind) {
  switch (kind) {
    case RawKind::kInt:
      return "an integer";
    case RawKind::kReal:
    case RawKind::kFeature:
      return "a number";
    case RawKind::kText:
      return "a string, a dictionary of strings or an integer";
    case RawKind::kVector:
      return "a list of float16, float32 or float64";
  }
  return "";
}

std::optional<BadCell> ReadCells(RawKind kind, const arrow::Array& array, RawCells* cells) {
  switch (kind) {
    case RawKind::kInt:
      return ReadInts(array, &cells->ints);
    case RawKind::kReal:
      return ReadReals(array, /*null_is_zero=*/false, &cells->reals);
    case RawKind::kFeature:
      return ReadReals(array, /*null_is_zero=*/true, &cells->reals);
    case RawKind::kText:
      return ReadText(array, &cells->text);
    case RawKind::kVector:
      return ReadVectors(array, &cells->vectors);
  }
  return std::nullopt;
}

}  // namespace savior
