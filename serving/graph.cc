#include "serving/graph.h"

#include <absl/strings/ascii.h>
#include <glog/logging.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace savior {
namespace {

bool IsName(const std::string& name) {
  return !name.empty() && absl::ascii_isalpha(static_cast<unsigned char>(name[0])) &&
         std::ranges::all_of(name, [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
         });
}

// Of an operation over both, where one row is repeated.
Rows Joint(const std::string& name, Rows a, Rows b) {
  CHECK(a == b || a == Rows::kOne || b == Rows::kOne)
      << name << ": a row per position and a row per candidate do not meet";
  return a == Rows::kOne ? b : a;
}

}  // namespace

void Graph::AddWeight(const std::string& name, HostTensor tensor) {
  CHECK(IsName(name)) << name;
  CHECK_EQ(static_cast<int64_t>(tensor.data.size()),
           std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1},
                           std::multiplies<int64_t>()))
      << name;
  CHECK(std::ranges::none_of(values_, [&](const GraphValue& v) { return v.name == name; })) << name;
  CHECK(weights_.emplace(name, std::move(tensor)).second) << name << " is there already";
}

size_t Graph::AddValue(const std::string& name, Rows rows, int64_t width) {
  CHECK(IsName(name)) << name;
  CHECK_GT(width, 0) << name;
  CHECK(!weights_.contains(name) &&
        std::ranges::none_of(values_, [&](const GraphValue& v) { return v.name == name; }))
      << name << " is there already";
  values_.push_back({name, rows, width});
  return values_.size() - 1;
}

size_t Graph::AddNode(const std::string& name, Rows rows, int64_t width, GraphNode node) {
  for (const std::string& weight : node.weights) CHECK(weights_.contains(weight)) << weight;
  node.output = AddValue(name, rows, width);
  nodes_.push_back(std::move(node));
  return nodes_.back().output;
}

size_t Graph::AddInput(const std::string& name, Rows rows, int64_t width) {
  inputs_.push_back(AddValue(name, rows, width));
  return inputs_.back();
}

size_t Graph::AddLinear(const std::string& name, size_t x, const std::string& weight,
                        const std::string& bias) {
  const GraphValue in = value(x);
  const std::vector<int64_t>& shape = weights_.at(weight).shape;
  CHECK_EQ(shape.size(), 2u) << weight;
  CHECK_EQ(shape[1], in.width) << weight;
  GraphNode node{.op = GraphOp::kLinear, .inputs = {x}, .weights = {weight}};
  if (!bias.empty()) {
    CHECK(weights_.at(bias).shape == std::vector<int64_t>{shape[0]}) << bias;
    node.weights.push_back(bias);
  }
  return AddNode(name, in.rows, shape[0], std::move(node));
}

size_t Graph::AddElementwise(const std::string& name, GraphOp op, size_t a, size_t b) {
  const GraphValue left = value(a), right = value(b);
  CHECK_EQ(left.width, right.width) << name;
  return AddNode(name, Joint(name, left.rows, right.rows), left.width,
                 {.op = op, .inputs = {a, b}, .weights = {}});
}

size_t Graph::AddSum(const std::string& name, size_t a, size_t b) {
  return AddElementwise(name, GraphOp::kAdd, a, b);
}

size_t Graph::AddProduct(const std::string& name, size_t a, size_t b) {
  return AddElementwise(name, GraphOp::kMultiply, a, b);
}

size_t Graph::AddConcat(const std::string& name, const std::vector<size_t>& parts) {
  CHECK(!parts.empty()) << name;
  Rows rows = Rows::kOne;
  int64_t width = 0;
  for (const size_t part : parts) {
    rows = Joint(name, rows, value(part).rows);
    width += value(part).width;
  }
  return AddNode(name, rows, width, {.op = GraphOp::kConcat, .inputs = parts, .weights = {}});
}

size_t Graph::AddSlice(const std::string& name, size_t x, int64_t begin, int64_t end) {
  CHECK(0 <= begin && begin < end && end <= value(x).width) << name;
  return AddNode(name, value(x).rows, end - begin,
                 {.op = GraphOp::kSlice, .inputs = {x}, .weights = {}, .begin = begin, .end = end});
}

size_t Graph::AddRelu(const std::string& name, size_t x) {
  return AddNode(name, value(x).rows, value(x).width,
                 {.op = GraphOp::kRelu, .inputs = {x}, .weights = {}});
}

size_t Graph::AddSigmoid(const std::string& name, size_t x) {
  return AddNode(name, value(x).rows, value(x).width,
                 {.op = GraphOp::kSigmoid, .inputs = {x}, .weights = {}});
}

size_t Graph::AddAttention(const std::string& name, const Attention& a) {
  const auto check = [&](size_t input, Rows rows, int64_t width) {
    CHECK(value(input).rows == rows) << name << ": " << value(input).name;
    CHECK_EQ(value(input).width, width) << name << ": " << value(input).name;
  };
  const int64_t behaviour = value(a.query).width, hidden = value(a.query_hidden).width;
  check(a.query, Rows::kCandidates, behaviour);
  check(a.history, Rows::kHistory, behaviour);
  check(a.query_hidden, Rows::kCandidates, hidden);
  check(a.history_hidden, Rows::kHistory, hidden);
  CHECK((weights_.at(a.product).shape == std::vector<int64_t>{hidden, behaviour})) << a.product;
  CHECK((weights_.at(a.score).shape == std::vector<int64_t>{hidden})) << a.score;
  GraphNode node{.op = GraphOp::kBiTargetAttention,
                 .inputs = {a.query, a.history, a.query_hidden, a.history_hidden},
                 .weights = {a.product, a.score}};
  int64_t width = behaviour;
  if (a.modal) {
    const int64_t modal = value(a.query_modal).width;
    check(a.query_modal, Rows::kCandidates, modal);
    check(a.history_modal, Rows::kHistory, modal);
    node.inputs.insert(node.inputs.end(), {a.query_modal, a.history_modal});
    width = 2 * (modal + behaviour);
  }
  return AddNode(name, Rows::kCandidates, width, std::move(node));
}

size_t Graph::AddSimilarityTiers(const std::string& name, size_t query, size_t history,
                                 int64_t bins) {
  CHECK(value(query).rows == Rows::kCandidates && value(history).rows == Rows::kHistory) << name;
  CHECK_EQ(value(query).width, value(history).width) << name;
  return AddNode(name, Rows::kCandidates, bins,
                 {.op = GraphOp::kTiers, .inputs = {query, history}, .weights = {}});
}

void Graph::AddOutput(size_t index) {
  CHECK(value(index).rows == Rows::kCandidates && value(index).width == 1) << value(index).name;
  outputs_.push_back(index);
}

}  // namespace savior
