// Named float arrays in one file, in the safetensors layout (8-byte little-endian header length,
// JSON header, raw data), so that anybody's tools can read our dense weights, codebooks and
// vectors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

// Row-major float32. data.size() == the product of shape.
struct HostTensor {
  std::vector<int64_t> shape;
  std::vector<float> data;
  bool operator==(const HostTensor&) const = default;
};

// `metadata` is the format's string-to-string map.
struct TensorFile {
  std::map<std::string, HostTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// The file's bytes: same content, same bytes. kInvalidArgument: a bad name, or a shape that is not
// its data's (named).
[[nodiscard]] absl::StatusOr<std::string> EncodeTensors(const TensorFile& file);
// kDataLoss: see ReadTensorFile.
[[nodiscard]] absl::StatusOr<TensorFile> DecodeTensors(const std::string& bytes);

// Neither atomic nor durable, as WriteFile: who publishes the folder that it is in makes it so.
[[nodiscard]] absl::Status WriteTensorFile(const std::filesystem::path& path,
                                           const TensorFile& file);
// kDataLoss if the file is not one of ours: lengths, offsets and shapes are checked before use; F32
// only.
[[nodiscard]] absl::StatusOr<TensorFile> ReadTensorFile(const std::filesystem::path& path);

}  // namespace savior
