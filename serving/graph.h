// The inference graph of a model over the looked-up rows of ONE request: described once, then run
// here (graph_runner.h) or written for others (onnx_writer.h, torchscript_writer.h).
//
// Every value is a row-major float32 matrix [rows, width]. Its rows are one (the user), the T
// positions of the request's history, or its C candidates; T and C are axes of the request, so
// nothing is padded. T may be 0, C is at least 1.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/tensor_file.h"

namespace savior {

enum class Rows { kOne, kHistory, kCandidates };

// Names of the symbolic axes, for formats that have such.
inline constexpr char kHistoryAxis[] = "T";
inline constexpr char kCandidateAxis[] = "C";

// What a node computes; n is the number of rows of its output. Where operands have different rows,
// one of them is kOne, and that row is repeated.
enum class GraphOp {
  kLinear,    // x [n, in], weight [out, in], bias [out] or none -> x weight^T + bias
  kAdd,       // a + b
  kMultiply,  // a * b, element by element
  kConcat,    // [n, sum of widths]; repeats one-row inputs
  kSlice,     // columns [begin, end)
  kRelu,
  kSigmoid,
  // Formulas and column order: worker/model/attention_kernel.h. Inputs: query [C, behaviour],
  // history [T, behaviour], query_hidden [C, hidden], history_hidden [T, hidden] and, with modal
  // scores, query_modal [C, modal], history_modal [T, modal]; weights: product [hidden, behaviour],
  // score [hidden]. -> [C, 2 * (modal + behaviour)], without modal scores [C, behaviour]. An empty
  // history: zeros.
  kBiTargetAttention,
  // Inputs: query [C, dim], history [T, dim], of unit length or zero. -> [C, bins] =
  // log(1 + number of positions whose cosine is in the bin); bins split [-1, 1] evenly.
  kTiers,
};

struct GraphValue {
  std::string name;  // letters, digits, "_" and "."; unique among values and weights
  Rows rows = Rows::kOne;
  int64_t width = 0;  // > 0
};

// Inputs and output are indices into Graph::values().
struct GraphNode {
  GraphOp op = GraphOp::kAdd;
  std::vector<size_t> inputs;
  std::vector<std::string> weights;  // names in Graph::weights()
  size_t output = 0;
  int64_t begin = 0, end = 0;  // kSlice
};

// Built node by node, in an order in which it can be computed. Thread-compatible.
//
// The building calls CHECK names and shapes: what they are given is our own code's. Weights come
// from files: who builds a graph checks their shapes first (RankerGraph does).
class Graph {
 public:
  struct Attention {
    size_t query = 0, history = 0, query_hidden = 0, history_hidden = 0;
    bool modal = false;
    size_t query_modal = 0, history_modal = 0;  // only if `modal`
    std::string product, score;                 // weights
  };

  void AddWeight(const std::string& name, HostTensor tensor);

  // Each returns the value's index. `name`: that of the value.
  size_t AddInput(const std::string& name, Rows rows, int64_t width);
  size_t AddLinear(const std::string& name, size_t x, const std::string& weight,
                   const std::string& bias = "");  // "": none
  size_t AddSum(const std::string& name, size_t a, size_t b);
  size_t AddProduct(const std::string& name, size_t a, size_t b);
  size_t AddConcat(const std::string& name, const std::vector<size_t>& parts);  // not empty
  size_t AddSlice(const std::string& name, size_t x, int64_t begin, int64_t end);
  size_t AddRelu(const std::string& name, size_t x);
  size_t AddSigmoid(const std::string& name, size_t x);
  size_t AddAttention(const std::string& name, const Attention& attention);
  size_t AddSimilarityTiers(const std::string& name, size_t query, size_t history, int64_t bins);
  // Of width 1 and with a row per candidate: given out as [C].
  void AddOutput(size_t value);

  const std::vector<GraphValue>& values() const { return values_; }
  const std::vector<GraphNode>& nodes() const { return nodes_; }
  const std::map<std::string, HostTensor>& weights() const { return weights_; }
  const std::vector<size_t>& inputs() const { return inputs_; }
  const std::vector<size_t>& outputs() const { return outputs_; }

  const GraphValue& value(size_t index) const { return values_[index]; }
  const HostTensor& weight(const std::string& name) const { return weights_.at(name); }

 private:
  size_t AddValue(const std::string& name, Rows rows, int64_t width);
  size_t AddNode(const std::string& name, Rows rows, int64_t width, GraphNode node);
  size_t AddElementwise(const std::string& name, GraphOp op, size_t a, size_t b);

  std::vector<GraphValue> values_;
  std::vector<GraphNode> nodes_;
  std::map<std::string, HostTensor> weights_;
  std::vector<size_t> inputs_, outputs_;
};

}  // namespace savior
