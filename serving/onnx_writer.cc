#include "serving/onnx_writer.h"

#include <absl/strings/str_cat.h>

#include <bit>
#include <string_view>
#include <vector>

#include "serving/protobuf_bytes.h"

namespace savior {
namespace {

// raw_data is little-endian.
static_assert(std::endian::native == std::endian::little);

// Field numbers and enums of onnx.proto (https://github.com/onnx/onnx).
enum ModelField : uint32_t {
  kModelIrVersion = 1,
  kModelProducerName = 2,
  kModelProducerVersion = 3,
  kModelGraph = 7,
  kModelOpsetImport = 8,
  kModelMetadata = 14
};
enum GraphField : uint32_t {
  kGraphNodes = 1,
  kGraphName = 2,
  kGraphInitializers = 5,
  kGraphInputs = 11,
  kGraphOutputs = 12,
  kGraphValueInfos = 13
};
enum NodeField : uint32_t {
  kNodeInputs = 1,
  kNodeOutputs = 2,
  kNodeName = 3,
  kNodeOpType = 4,
  kNodeAttributes = 5
};
enum AttributeField : uint32_t { kAttributeName = 1, kAttributeInt = 3, kAttributeType = 20 };
enum TensorField : uint32_t { kTensorDims = 1, kTensorType = 2, kTensorName = 8, kTensorRaw = 9 };
enum OtherField : uint32_t {
  kValueName = 1,  // ValueInfoProto
  kValueType = 2,
  kTypeTensor = 1,   // TypeProto
  kElementType = 1,  // TypeProto.Tensor
  kTensorShape = 2,
  kShapeDims = 1,  // TensorShapeProto
  kDimValue = 1,   // TensorShapeProto.Dimension
  kDimParam = 2,
  kOpsetVersion = 2,
  kEntryKey = 1,  // StringStringEntryProto
  kEntryValue = 2
};
constexpr int64_t kFloat = 1, kInt64 = 7;  // TensorProto.DataType
constexpr int64_t kIntAttribute = 2;       // AttributeProto.AttributeType

// A score that no real one comes near, and whose softmax weight beside any real one is exactly 0.
constexpr float kNoScore = -1e30f;

// `shape` [rows, width], or [rows] with width 0.
ProtobufMessage ValueInfo(const std::string& name, Rows rows, int64_t width) {
  ProtobufMessage first, shape, tensor, type, info;
  if (rows == Rows::kOne) first.Int(kDimValue, 1);
  if (rows == Rows::kHistory) first.Bytes(kDimParam, kHistoryAxis);
  if (rows == Rows::kCandidates) first.Bytes(kDimParam, kCandidateAxis);
  shape.Message(kShapeDims, first);
  if (width > 0) {
    ProtobufMessage second;
    second.Int(kDimValue, width);
    shape.Message(kShapeDims, second);
  }
  tensor.Int(kElementType, kFloat);
  tensor.Message(kTensorShape, shape);
  type.Message(kTypeTensor, tensor);
  info.Bytes(kValueName, name);
  info.Message(kValueType, type);
  return info;
}

// Appends nodes; every helper returns the name of what it computes, which is `scope` and a suffix.
class OnnxGraph {
 public:
  using Names = std::vector<std::string>;
  struct Attribute {
    std::string_view name;
    int64_t value;
  };

  explicit OnnxGraph(const Graph& graph) : graph_(graph) {}

  void AddAll() {
    message_.Bytes(kGraphName, "ranker");
    for (const GraphNode& node : graph_.nodes()) AddNode(node);
    for (const auto& [name, tensor] : graph_.weights()) {
      AddTensor(name, kFloat, tensor.shape, BytesOf(tensor.data));
    }
    for (const size_t input : graph_.inputs()) {
      const GraphValue& v = graph_.value(input);
      message_.Message(kGraphInputs, ValueInfo(v.name, v.rows, v.width));
    }
    for (const size_t output : graph_.outputs()) {
      const GraphValue& v = graph_.value(output);
      message_.Message(kGraphOutputs, ValueInfo(v.name, v.rows, 0));
    }
    for (const GraphNode& node : graph_.nodes()) {
      const GraphValue& v = graph_.value(node.output);
      message_.Message(kGraphValueInfos, ValueInfo(NameOf(node.output), v.rows, v.width));
    }
  }

  const ProtobufMessage& message() const { return message_; }

 private:
  template <typename T>
  static std::string_view BytesOf(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
  }

  // An output is given out as [C], under its name; the column that it comes from has another.
  std::string NameOf(size_t value) const {
    for (const size_t output : graph_.outputs()) {
      if (output == value) return graph_.value(value).name + "/column";
    }
    return graph_.value(value).name;
  }

  void AddTensor(const std::string& name, int64_t type, const std::vector<int64_t>& shape,
                 std::string_view raw) {
    ProtobufMessage tensor;
    for (const int64_t size : shape) tensor.Int(kTensorDims, size);
    tensor.Int(kTensorType, type);
    tensor.Bytes(kTensorName, name);
    tensor.Bytes(kTensorRaw, raw);
    message_.Message(kGraphInitializers, tensor);
  }

  std::string Floats(const std::string& name, const std::vector<int64_t>& shape,
                     const std::vector<float>& values) {
    AddTensor(name, kFloat, shape, BytesOf(values));
    return name;
  }
  std::string Ints(const std::string& name, const std::vector<int64_t>& values) {
    AddTensor(name, kInt64, {static_cast<int64_t>(values.size())}, BytesOf(values));
    return name;
  }

  std::string Op(std::string_view type, const Names& inputs, const std::string& output,
                 const std::vector<Attribute>& attributes = {}) {
    ProtobufMessage node;
    for (const std::string& input : inputs) node.Bytes(kNodeInputs, input);
    node.Bytes(kNodeOutputs, output);
    node.Bytes(kNodeName, output);
    node.Bytes(kNodeOpType, type);
    for (const Attribute& a : attributes) {
      ProtobufMessage attribute;
      attribute.Bytes(kAttributeName, a.name);
      attribute.Int(kAttributeInt, a.value);
      attribute.Int(kAttributeType, kIntAttribute);
      node.Message(kNodeAttributes, attribute);
    }
    message_.Message(kGraphNodes, node);
    return output;
  }

  // [1, w] of `row` -> [C, w], as many rows as `like` has.
  std::string Repeat(const std::string& row, const std::string& like, const std::string& scope) {
    const std::string count = Op("Shape", {like}, scope + "/rows", {{"start", 0}, {"end", 1}});
    const std::string one = Ints(scope + "/one", {1});
    const std::string shape = Op("Concat", {count, one}, scope + "/shape", {{"axis", 0}});
    return Op("Expand", {row, shape}, scope);
  }

  void AddNode(const GraphNode& node) {
    const std::string out = NameOf(node.output);
    Names in;
    for (const size_t input : node.inputs) in.push_back(NameOf(input));
    switch (node.op) {
      case GraphOp::kLinear:
        in.insert(in.end(), node.weights.begin(), node.weights.end());
        Op("Gemm", in, out, {{"transB", 1}});
        break;
      case GraphOp::kAdd:
        Op("Add", in, out);
        break;
      case GraphOp::kMultiply:
        Op("Mul", in, out);
        break;
      case GraphOp::kConcat:
        AddConcat(node, in, out);
        break;
      case GraphOp::kSlice: {
        const std::string begin = Ints(out + "/begin", {node.begin});
        const std::string end = Ints(out + "/end", {node.end});
        Op("Slice", {in[0], begin, end, Ints(out + "/axis", {1})}, out);
        break;
      }
      case GraphOp::kRelu:
        Op("Relu", in, out);
        break;
      case GraphOp::kSigmoid:
        Op("Sigmoid", in, out);
        break;
      case GraphOp::kBiTargetAttention:
        AddAttention(node, in, out);
        break;
      case GraphOp::kTiers:
        AddTiers(node, in, out);
        break;
    }
    if (const std::string& name = graph_.value(node.output).name; name != out) {
      Op("Squeeze", {out, Ints(name + "/axis", {1})}, name);
    }
  }

  void AddConcat(const GraphNode& node, Names in, const std::string& out) {
    const Rows rows = graph_.value(node.output).rows;
    std::string like;
    for (const size_t input : node.inputs) {
      if (graph_.value(input).rows == rows) like = NameOf(input);
    }
    for (size_t i = 0; i < in.size(); ++i) {
      if (graph_.value(node.inputs[i]).rows == rows) continue;
      in[i] = Repeat(in[i], like, absl::StrCat(out, "/part", i));
    }
    Op("Concat", in, out, {{"axis", 1}});
  }

  // Weighted sums of `values` [T + 1, w], whose last row is zero, by softmax of `scores` [C, T].
  // The last row's score is `none` [C, 1], far below all others: alone, in an empty history, it
  // makes the sum zero; elsewhere it has no weight. So no runtime meets a softmax of nothing.
  std::string Attend(const std::string& scores, const std::string& none, const std::string& values,
                     const std::string& scope) {
    const std::string all = Op("Concat", {scores, none}, scope + "/scores", {{"axis", 1}});
    const std::string p = Op("Softmax", {all}, scope + "/weights", {{"axis", 1}});
    return Op("MatMul", {p, values}, scope);
  }

  void AddAttention(const GraphNode& node, const Names& in, const std::string& out) {
    const std::string &query = in[0], &history = in[1];
    const std::string first = Ints(out + "/first", {1}), last = Ints(out + "/last", {2});
    const std::string none =
        Repeat(Floats(out + "/no_score", {1, 1}, {kNoScore}), query, out + "/none");

    // DIN's scorer over [C, hidden, T]: (P diag(q)) h^T, then a and b; less to compute than over
    // [C, T, behaviour].
    const std::string mixed = Op(
        "Mul", {Op("Unsqueeze", {query, first}, out + "/query"), node.weights[0]}, out + "/mixed");
    const std::string product =
        Op("MatMul", {mixed, Op("Transpose", {history}, out + "/history")}, out + "/product");
    const std::string a = Op("Unsqueeze", {in[2], last}, out + "/query_hidden");
    const std::string b = Op("Transpose", {in[3]}, out + "/history_hidden");
    const std::string sum = Op("Add", {Op("Add", {product, a}, out + "/sum_a"), b}, out + "/sum");
    const std::string scores = Op("MatMul", {node.weights[1], Op("Relu", {sum}, out + "/relu")},
                                  out + "/behaviour_scores");

    const bool modal = in.size() > 4;
    int64_t width = graph_.value(node.inputs[1]).width;
    std::string values = history;
    if (modal) {
      width += graph_.value(node.inputs[5]).width;
      values = Op("Concat", {in[5], history}, out + "/positions", {{"axis", 1}});
    }
    const std::string zeros =
        Floats(out + "/zeros", {1, width}, std::vector<float>(static_cast<size_t>(width)));
    values = Op("Concat", {values, zeros}, out + "/values", {{"axis", 0}});
    if (!modal) {
      Attend(scores, none, values, out);
      return;
    }
    const std::string modal_scores = Op(
        "MatMul", {in[4], Op("Transpose", {in[5]}, out + "/modal_history")}, out + "/modal_scores");
    const std::string by_modal = Attend(modal_scores, none, values, out + "/by_modal");
    const std::string by_behaviour = Attend(scores, none, values, out + "/by_behaviour");
    Op("Concat", {by_modal, by_behaviour}, out, {{"axis", 1}});
  }

  // Position t counts where its bin equals b: [C, T + 1, 1] against [bins]. The last position is in
  // no bin, so that there is always one to sum over.
  void AddTiers(const GraphNode& node, const Names& in, const std::string& out) {
    const int64_t bins = graph_.value(node.output).width;
    const auto scalar = [&](const std::string& name, float value) {
      return Floats(out + "/" + name, {}, {value});
    };
    const std::string cosine =
        Op("MatMul", {in[0], Op("Transpose", {in[1]}, out + "/history")}, out + "/cosine");
    const std::string shifted = Op("Add", {cosine, scalar("one", 1)}, out + "/shifted");
    const std::string scaled =
        Op("Mul", {shifted, scalar("half", 0.5f * static_cast<float>(bins))}, out + "/scaled");
    const std::string bin = Op("Floor", {scaled}, out + "/floor");
    const std::string clipped = Op(
        "Clip", {bin, scalar("min", 0), scalar("max", static_cast<float>(bins - 1))}, out + "/bin");
    const std::string none = Repeat(Floats(out + "/no_bin", {1, 1}, {-1.0f}), in[0], out + "/none");
    const std::string all = Op("Concat", {clipped, none}, out + "/bins", {{"axis", 1}});

    std::vector<float> numbers;
    for (int64_t b = 0; b < bins; ++b) numbers.push_back(static_cast<float>(b));
    const std::string columns = Op("Unsqueeze", {all, Ints(out + "/axis", {2})}, out + "/columns");
    const std::string equal =
        Op("Equal", {columns, Floats(out + "/numbers", {bins}, numbers)}, out + "/equal");
    const std::string hits = Op("Cast", {equal}, out + "/hits", {{"to", kFloat}});
    const std::string count =
        Op("ReduceSum", {hits, Ints(out + "/positions", {1})}, out + "/count", {{"keepdims", 0}});
    Op("Log", {Op("Add", {count, out + "/one"}, out + "/count1")}, out);
  }

  const Graph& graph_;
  ProtobufMessage message_;
};

}  // namespace

absl::StatusOr<std::string> OnnxModel(const Graph& graph, const OnnxOptions& options) {
  int64_t weights = 0;
  for (const auto& [name, tensor] : graph.weights()) {
    weights += static_cast<int64_t>(tensor.data.size() * sizeof(float));
  }
  const auto too_large = [&](int64_t bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the ONNX file would have ", bytes, " bytes, of which ", weights, " are weights; at most ",
        options.max_bytes,
        " are possible: make model.dnn or model.tower smaller, or export TorchScript"));
  };
  if (weights > options.max_bytes) return too_large(weights);

  OnnxGraph onnx(graph);
  onnx.AddAll();
  ProtobufMessage model, opset;
  model.Int(kModelIrVersion, kOnnxIrVersion);
  model.Bytes(kModelProducerName, "savior");
  model.Bytes(kModelProducerVersion, options.producer_version);
  model.Message(kModelGraph, onnx.message());
  opset.Int(kOpsetVersion, kOnnxOpset);
  model.Message(kModelOpsetImport, opset);
  for (const auto& [key, value] : options.metadata) {
    ProtobufMessage entry;
    entry.Bytes(kEntryKey, key);
    entry.Bytes(kEntryValue, value);
    model.Message(kModelMetadata, entry);
  }
  if (const auto bytes = static_cast<int64_t>(model.bytes().size()); bytes > options.max_bytes) {
    return too_large(bytes);
  }
  return model.bytes();
}

}  // namespace savior
