// A model for Triton Inference Server (https://github.com/triton-inference-server):
//
//   <repository>/<name>/config.pbtxt      this text
//   <repository>/<name>/1/model.onnx      OnnxModel's bytes
//
// A call is one request: inputs and outputs are flat tensors with the axes T and C, and Triton does
// not batch calls (max_batch_size 0). Concurrency comes from instances.
#pragma once

#include <cstdint>
#include <string>

#include "common/status.h"
#include "serving/graph.h"

namespace savior {

struct TritonOptions {
  std::string name;       // of the model, and of its folder
  int64_t instances = 1;  // copies that run at the same time, on CPUs
  int64_t threads = 1;    // of onnxruntime, per instance
};

// The text of config.pbtxt. kInvalidArgument: a name that is no folder's (letters, digits, "_",
// "-" and "." only), no instances, no threads.
[[nodiscard]] absl::StatusOr<std::string> TritonConfig(const Graph& graph,
                                                       const TritonOptions& options);

}  // namespace savior
