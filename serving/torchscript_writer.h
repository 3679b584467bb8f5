// A graph as a TorchScript module, for Triton's libtorch backend and for Python: torch.jit.load.
//
//   forward(user, history_item, ...) -> (p_ctr, p_cvr, p_ctcvr)
//
// takes the graph's inputs in their order, float32 and on the module's device, and one request per
// call: T and C may differ from call to call. Weights are buffers; dots in names are underscores.
#pragma once

#include <map>
#include <string>

#include "common/status.h"
#include "serving/graph.h"

namespace savior {

// The source of forward(), readable: what the module's `code` shows.
std::string TorchScriptSource(const Graph& graph);

// The bytes of the .pt file. `metadata`: extra files of the archive, by name ("step" -> "1200").
// kInvalidArgument says what LibTorch did not take.
[[nodiscard]] absl::StatusOr<std::string> TorchScriptModule(
    const Graph& graph, const std::map<std::string, std::string>& metadata);

}  // namespace savior
