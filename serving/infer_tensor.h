// Input tensors of the Open Inference Protocol v2 (github.com/kserve/open-inference-protocol), and
// of its binary tensor data extension (Triton's protocol documentation, extension_binary_data.md).
//
//   tensor = {"name": string, "datatype": string, "shape": [integer >= 0, ...], and either
//             "data": list, flat or nested, in row-major order, or
//             "parameters": {"binary_data_size": n}, which takes the next n bytes behind the JSON}
//   binary INT64, FP32: little-endian; BYTES: per element its length (uint32, little-endian) and
//   bytes
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

struct InferTensor {
  enum class Type { kInt64, kFp32, kBytes };
  std::string name;
  std::string path;  // for messages: "inputs[2] (history_item)"
  Type type = Type::kInt64;
  std::vector<int64_t> shape;
  // As many as the product of `shape`, in the one that `type` names. Floats are finite.
  std::vector<int64_t> integers;
  std::vector<float> floats;
  std::vector<std::string> strings;
};

std::string_view NameOf(InferTensor::Type type);

// The tensors of "inputs", in order. `binary` is what stands behind the JSON: the tensors must use
// all of it. kInvalidArgument says which tensor and what.
[[nodiscard]] absl::StatusOr<std::vector<InferTensor>> ReadInferTensors(
    const nlohmann::json& inputs, std::string_view binary);

}  // namespace savior
