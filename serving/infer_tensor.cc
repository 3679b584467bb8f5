#include "serving/infer_tensor.h"

#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "common/finite.h"
#include "serving/json_text.h"

namespace savior {
namespace {

using nlohmann::json;
using Type = InferTensor::Type;

static_assert(std::endian::native == std::endian::little);  // tensors are copied as they come

// More than a body of any sane limit could hold; products of two stay in int64.
constexpr int64_t kMostElements = int64_t{1} << 31;
constexpr size_t kMostInputs = 1000;

absl::Status Wrong(const InferTensor& tensor, std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("{}: {}", tensor.path, what));
}

absl::Status ReadType(const json& value, InferTensor& tensor) {
  if (!value.contains("datatype")) return Wrong(tensor, "datatype: missing");
  SAVIOR_ASSIGN_OR_RETURN(const std::string name,
                          ReadString(value["datatype"], tensor.path + ": datatype"));
  for (const Type type : {Type::kInt64, Type::kFp32, Type::kBytes}) {
    if (name == NameOf(type)) {
      tensor.type = type;
      return absl::OkStatus();
    }
  }
  return JsonError(tensor.path + ": datatype", Clip(name), "INT64, FP32 or BYTES");
}

// -> how many elements.
absl::StatusOr<int64_t> ReadShape(const json& value, InferTensor& tensor) {
  if (!value.contains("shape")) return Wrong(tensor, "shape: missing");
  const std::string at = tensor.path + ": shape";
  SAVIOR_RETURN_IF_ERROR(CheckList(value["shape"], at, "sizes"));
  if (value["shape"].empty() || value["shape"].size() > 2) {
    return JsonError(at, fmt::format("{} sizes", value["shape"].size()), "1 or 2");
  }
  int64_t elements = 1;
  for (const json& size : value["shape"]) {
    SAVIOR_ASSIGN_OR_RETURN(const int64_t dim, ReadCount(size, at, "integers >= 0"));
    if (dim > kMostElements || elements * dim > kMostElements) {
      return Wrong(tensor, fmt::format("shape: more than {} elements", kMostElements));
    }
    elements *= dim;
    tensor.shape.push_back(dim);
  }
  return elements;
}

absl::Status ReadElement(const json& value, InferTensor& tensor) {
  const auto at = [&] {
    const size_t index = tensor.integers.size() + tensor.floats.size() + tensor.strings.size();
    return JsonPath(tensor.path + ": data", index);
  };
  switch (tensor.type) {
    case Type::kInt64:
      if (!value.is_number_integer() ||
          (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX})) {
        return JsonError(at(), DescribeJson(value), "an integer (int64)");
      }
      tensor.integers.push_back(value.get<int64_t>());
      return absl::OkStatus();
    case Type::kFp32: {
      const double wide = value.is_number() ? value.get<double>() : HUGE_VAL;
      if (!(std::abs(wide) <= std::numeric_limits<float>::max())) {
        return JsonError(at(), DescribeJson(value), "a number that float32 can hold");
      }
      tensor.floats.push_back(static_cast<float>(wide));
      return absl::OkStatus();
    }
    case Type::kBytes:
      if (!value.is_string()) return JsonError(at(), DescribeJson(value), "a string");
      tensor.strings.push_back(value.get_ref<const std::string&>());
      return absl::OkStatus();
  }
  return absl::InternalError("a type of tensor that is none");
}

// Lists in lists count as their elements in order. As deep as the parser lets through.
absl::Status ReadData(const json& list, InferTensor& tensor) {
  for (const json& value : list) {
    if (value.is_array()) {
      SAVIOR_RETURN_IF_ERROR(ReadData(value, tensor));
    } else {
      SAVIOR_RETURN_IF_ERROR(ReadElement(value, tensor));
    }
  }
  return absl::OkStatus();
}

absl::Status CopyStrings(std::string_view bytes, int64_t elements, InferTensor& tensor) {
  for (int64_t i = 0; i < elements; ++i) {
    uint32_t size = 0;
    if (bytes.size() < sizeof(size)) {
      return Wrong(tensor, fmt::format("its binary data ends within element {}", i));
    }
    std::memcpy(&size, bytes.data(), sizeof(size));
    bytes.remove_prefix(sizeof(size));
    if (bytes.size() < size) {
      return Wrong(tensor,
                   fmt::format("element {} claims {} bytes, {} are left", i, size, bytes.size()));
    }
    tensor.strings.emplace_back(bytes.substr(0, size));
    bytes.remove_prefix(size);
  }
  if (bytes.empty()) return absl::OkStatus();
  return Wrong(tensor,
               fmt::format("{} bytes are left behind its {} elements", bytes.size(), elements));
}

absl::Status CopyBinary(std::string_view bytes, int64_t elements, InferTensor& tensor) {
  if (tensor.type == Type::kBytes) return CopyStrings(bytes, elements, tensor);
  const size_t width = tensor.type == Type::kInt64 ? sizeof(int64_t) : sizeof(float);
  if (bytes.size() != static_cast<size_t>(elements) * width) {
    return Wrong(tensor, fmt::format("binary_data_size {}, its shape [{}] of {} takes {}",
                                     bytes.size(), fmt::join(tensor.shape, ", "),
                                     NameOf(tensor.type), static_cast<size_t>(elements) * width));
  }
  if (bytes.empty()) return absl::OkStatus();
  if (tensor.type == Type::kInt64) {
    tensor.integers.resize(static_cast<size_t>(elements));
    std::memcpy(tensor.integers.data(), bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  tensor.floats.resize(static_cast<size_t>(elements));
  std::memcpy(tensor.floats.data(), bytes.data(), bytes.size());
  if (AllWithin(tensor.floats, std::numeric_limits<float>::max())) return absl::OkStatus();
  return Wrong(tensor, "a value is not finite");
}

// binary_data_size, if the tensor has one. Other parameters are tolerated, but not those that say
// that the data is in a memory that this server does not share.
absl::StatusOr<std::optional<size_t>> BinarySize(const json& value, const InferTensor& tensor) {
  if (!value.contains("parameters")) return std::nullopt;
  const json& parameters = value["parameters"];
  SAVIOR_RETURN_IF_ERROR(CheckKeys(parameters, tensor.path + ": parameters", {}));
  if (parameters.contains("shared_memory_region")) {
    return Wrong(tensor, "shared memory is not offered; send the data in the request");
  }
  if (!parameters.contains("binary_data_size")) return std::nullopt;
  SAVIOR_ASSIGN_OR_RETURN(const uint64_t size, ReadUnsigned(parameters["binary_data_size"],
                                                            tensor.path + ": binary_data_size",
                                                            "an integer >= 0 (bytes)"));
  return size;
}

absl::StatusOr<InferTensor> ReadTensor(const json& value, size_t index, std::string_view& binary) {
  static const std::vector<std::string> known = {"name", "shape", "datatype", "parameters", "data"};
  InferTensor tensor;
  tensor.path = JsonPath("inputs", index);
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, tensor.path, known));
  if (!value.contains("name")) return Wrong(tensor, "name: missing");
  SAVIOR_ASSIGN_OR_RETURN(tensor.name, ReadString(value["name"], tensor.path + ": name"));
  tensor.path += fmt::format(" ({})", Clip(tensor.name));
  SAVIOR_RETURN_IF_ERROR(ReadType(value, tensor));
  SAVIOR_ASSIGN_OR_RETURN(const int64_t elements, ReadShape(value, tensor));
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<size_t> size, BinarySize(value, tensor));
  if (size.has_value() == value.contains("data")) {
    return Wrong(tensor, "it must have either data or parameters.binary_data_size");
  }
  if (size.has_value()) {
    if (*size > binary.size()) {
      return Wrong(tensor, fmt::format("binary_data_size {}, {} bytes are left behind the JSON",
                                       *size, binary.size()));
    }
    SAVIOR_RETURN_IF_ERROR(CopyBinary(binary.substr(0, *size), elements, tensor));
    binary.remove_prefix(*size);
    return tensor;
  }
  SAVIOR_RETURN_IF_ERROR(CheckList(value["data"], tensor.path + ": data", "values"));
  SAVIOR_RETURN_IF_ERROR(ReadData(value["data"], tensor));
  const size_t found = tensor.integers.size() + tensor.floats.size() + tensor.strings.size();
  if (found == static_cast<size_t>(elements)) return tensor;
  return Wrong(tensor, fmt::format("{} values, its shape [{}] takes {}", found,
                                   fmt::join(tensor.shape, ", "), elements));
}

}  // namespace

std::string_view NameOf(Type type) {
  return type == Type::kInt64 ? "INT64" : type == Type::kFp32 ? "FP32" : "BYTES";
}

absl::StatusOr<std::vector<InferTensor>> ReadInferTensors(const json& inputs,
                                                          std::string_view binary) {
  SAVIOR_RETURN_IF_ERROR(CheckList(inputs, "inputs", "tensors"));
  if (inputs.size() > kMostInputs) {
    return absl::InvalidArgumentError(
        fmt::format("inputs: {} tensors, must be at most {}", inputs.size(), kMostInputs));
  }
  std::vector<InferTensor> tensors;
  absl::flat_hash_set<std::string> names;
  for (const json& value : inputs) {
    SAVIOR_ASSIGN_OR_RETURN(InferTensor tensor, ReadTensor(value, tensors.size(), binary));
    if (!names.insert(tensor.name).second) return Wrong(tensor, "a second tensor of this name");
    tensors.push_back(std::move(tensor));
  }
  if (!binary.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{} bytes behind the JSON belong to no input: no binary_data_size covers them",
                    binary.size()));
  }
  return tensors;
}

}  // namespace savior
