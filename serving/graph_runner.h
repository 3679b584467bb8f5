// Runs a graph on the calling thread, for a scorer of our own.
//
// What depends on the user and the history alone is computed once per request: their rows are never
// repeated per candidate. In the first layer of the DNN the user's part is a bias, and u * b_t and
// Wu u * z~_t become weights on b_t and z~_t (W (u * x) = (W diag(u)) x). Attention and SimTier are
// the ranker's own kernels. Probabilities differ from the ranker's by rounding only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "serving/graph.h"

namespace savior {

// One request. Inputs in the order of GraphRunner::inputs(), row-major; only read.
struct GraphRequest {
  int64_t history = 0;     // T >= 0
  int64_t candidates = 0;  // C >= 1
  std::vector<std::span<const float>> inputs = {};
};

// Immutable and thread-safe: many threads may call Run at once. Keeps the scratch memory of as many
// runs as there ever were at the same time.
class GraphRunner {
 public:
  // Copies what it needs of `graph`.
  explicit GraphRunner(const Graph& graph);
  ~GraphRunner();
  GraphRunner(const GraphRunner&) = delete;
  GraphRunner& operator=(const GraphRunner&) = delete;

  // What a request must bring, in this order: name, rows and width.
  const std::vector<GraphValue>& inputs() const;
  // Of the graph's outputs, in the order of Run's answer.
  const std::vector<std::string>& outputs() const;

  // -> per output [C]. kInvalidArgument: no candidates, another number of inputs, or one that has
  // not the rows and width that it must have (named).
  [[nodiscard]] absl::StatusOr<std::vector<std::vector<float>>> Run(
      const GraphRequest& request) const;

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace savior
