// A graph as an ONNX file, which onnxruntime, Triton, TensorRT and others run. Written by our own
// encoding of protobuf; composite operations are expanded to standard ones.
//
// Inputs and outputs are float32, named as in the graph, with the symbolic axes "T" and "C" (no
// padding: a run takes one request). Weights are initializers under their own names.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "common/status.h"
#include "serving/graph.h"

namespace savior {

// The version of the standard operators, and of the file format; both of 2022: old runtimes read
// the files.
inline constexpr int64_t kOnnxOpset = 17;
inline constexpr int64_t kOnnxIrVersion = 8;

// What protobuf can hold in one message.
inline constexpr int64_t kMaxOnnxBytes = (int64_t{1} << 31) - 1;

struct OnnxOptions {
  std::string producer_version = {};                 // of this program
  std::map<std::string, std::string> metadata = {};  // metadata_props: "step", "arm", ...
  int64_t max_bytes = kMaxOnnxBytes;
};

// The bytes of the .onnx file; same graph and options, same bytes. kInvalidArgument: more than
// max_bytes.
[[nodiscard]] absl::StatusOr<std::string> OnnxModel(const Graph& graph, const OnnxOptions& options);

}  // namespace savior
