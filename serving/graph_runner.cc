#include "serving/graph_runner.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "serving/graph_plan.h"
#include "worker/model/attention_kernel.h"

namespace savior {
namespace {

// Memory of one run, handed out in pieces; keeps what it once had.
class Scratch {
 public:
  void Reserve(size_t size) {
    if (size > memory_.size()) memory_.resize(size);
    used_ = 0;
  }
  float* Take(int64_t size) {
    float* const piece = memory_.data() + used_;
    used_ += static_cast<size_t>(size);
    return piece;
  }

 private:
  std::vector<float> memory_;
  size_t used_ = 0;
};

int64_t RowsOf(Rows rows, const GraphRequest& request) {
  if (rows == Rows::kOne) return 1;
  return rows == Rows::kHistory ? request.history : request.candidates;
}

const char* SymbolOf(Rows rows) {
  if (rows == Rows::kOne) return "1";
  return rows == Rows::kHistory ? kHistoryAxis : kCandidateAxis;
}

absl::Status Check(const std::vector<GraphValue>& inputs, const GraphRequest& request) {
  if (request.candidates < 1) return absl::InvalidArgumentError("a request without candidates");
  if (request.history < 0) {
    return absl::InvalidArgumentError(absl::StrCat("a history of length ", request.history));
  }
  if (request.inputs.size() != inputs.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.inputs.size(), " inputs, the model takes ", inputs.size()));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t rows = RowsOf(inputs[i].rows, request), width = inputs[i].width;
    if (request.inputs[i].size() == static_cast<size_t>(rows * width)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("input ", inputs[i].name, " has ", request.inputs[i].size(), " values, not ",
                     rows, " x ", width, " ([", SymbolOf(inputs[i].rows), ", ", width, "])"));
  }
  return absl::OkStatus();
}

// What a step takes of the scratch, its output included.
int64_t ScratchOf(const GraphPlan& plan, const PlanStep& step, const GraphRequest& request) {
  const GraphValue& out = plan.values[step.node.output];
  int64_t size = RowsOf(out.rows, request) * out.width;
  if (step.node.op == GraphOp::kBiTargetAttention) {
    const int64_t sets = step.node.inputs.size() > 4 ? 2 : 1;
    size += request.candidates * request.history * sets;
  }
  if (step.linear.has_value()) {
    size += step.linear->outputs;
    for (const LinearPlan::Scaled& scaled : step.linear->scaled) {
      size += static_cast<int64_t>(scaled.weight.values.size());
    }
  }
  return size;
}

// One run of a plan.
class OneRun {
 public:
  OneRun(const GraphPlan& plan, const GraphRequest& request, Scratch* scratch)
      : plan_(plan), request_(request), scratch_(*scratch), values_(plan.values.size(), nullptr) {
    int64_t size = 0;
    for (const PlanStep& step : plan.steps) size += ScratchOf(plan, step, request);
    scratch_.Reserve(static_cast<size_t>(size));
    for (size_t i = 0; i < plan.input_values.size(); ++i) {
      values_[plan.input_values[i]] = request.inputs[i].data();
    }
  }

  void Compute() {
    for (const PlanStep& step : plan_.steps) {
      const GraphValue& out = plan_.values[step.node.output];
      float* const y = scratch_.Take(rows(step.node.output) * out.width);
      Compute(step, y);
      values_[step.node.output] = y;
    }
  }

  const float* value(size_t index) const { return values_[index]; }

 private:
  int64_t rows(size_t value) const { return RowsOf(plan_.values[value].rows, request_); }
  int64_t width(size_t value) const { return plan_.values[value].width; }
  int64_t size(size_t value) const { return rows(value) * width(value); }

  void Compute(const PlanStep& step, float* y) {
    const GraphNode& node = step.node;
    const float* const x = values_[node.inputs[0]];
    switch (node.op) {
      case GraphOp::kLinear:
        Linear(*step.linear, rows(node.output), y);
        break;
      case GraphOp::kAdd:
        Elementwise(node, y, [](float a, float b) { return a + b; });
        break;
      case GraphOp::kMultiply:
        Elementwise(node, y, [](float a, float b) { return a * b; });
        break;
      case GraphOp::kConcat:
        Concat(node, y);
        break;
      case GraphOp::kSlice:
        for (int64_t r = 0; r < rows(node.output); ++r, y += width(node.output)) {
          std::copy_n(x + r * width(node.inputs[0]) + node.begin, width(node.output), y);
        }
        break;
      case GraphOp::kRelu:
        for (int64_t i = 0; i < size(node.output); ++i) y[i] = std::max(x[i], 0.0f);
        break;
      case GraphOp::kSigmoid:
        for (int64_t i = 0; i < size(node.output); ++i) y[i] = 1.0f / (1.0f + std::exp(-x[i]));
        break;
      case GraphOp::kBiTargetAttention:
        Attention(node, y);
        break;
      case GraphOp::kSimilarityTiers:
        SimilarityTiers(Shape(), width(node.inputs[0]), x, values_[node.inputs[1]],
                        width(node.output), y);
        break;
    }
  }

  ProductTerm TermOf(const LinearPlan::Term& term) const {
    return {values_[term.x.value] + term.x.begin, width(term.x.value), term.x.width,
            term.weight.values.data()};
  }

  void Linear(const LinearPlan& plan, int64_t n, float* y) {
    std::vector<ProductTerm> terms;
    const float* bias = plan.bias.data();
    if (!plan.once.empty()) {
      for (const LinearPlan::Term& term : plan.once) terms.push_back(TermOf(term));
      float* const sum = scratch_.Take(plan.outputs);
      SumProducts(terms, bias, 1, plan.outputs, sum);
      bias = sum;
      terms.clear();
    }
    for (const LinearPlan::Term& term : plan.terms) terms.push_back(TermOf(term));
    for (const LinearPlan::Scaled& scaled : plan.scaled) {
      ProductTerm& term = terms[scaled.term];
      term.weight = AddScaled(term.weight, scaled.weight, values_[scaled.scale]);
    }
    SumProducts(terms, bias, n, plan.outputs, y);
  }

  // `to` + `from` diag(scale).
  const float* AddScaled(const float* to, const PackedWeight& from, const float* scale) {
    constexpr int64_t kPanel = PackedWeight::kPanel;
    const auto size = static_cast<int64_t>(from.values.size());
    float* const sum = scratch_.Take(size);
    for (int64_t begin = 0; begin < size; begin += from.width * kPanel) {
      for (int64_t k = 0; k < from.width; ++k) {
        for (int64_t i = begin + k * kPanel; i < begin + (k + 1) * kPanel; ++i) {
          sum[i] = to[i] + scale[k] * from.values[static_cast<size_t>(i)];
        }
      }
    }
    return sum;
  }

  template <typename Function>
  void Elementwise(const GraphNode& node, float* y, Function function) const {
    const int64_t n = width(node.output);
    // A single row is not moved on from.
    const int64_t step_a = rows(node.inputs[0]) == rows(node.output) ? n : 0;
    const int64_t step_b = rows(node.inputs[1]) == rows(node.output) ? n : 0;
    const float *a = values_[node.inputs[0]], *b = values_[node.inputs[1]];
    for (int64_t r = 0; r < rows(node.output); ++r, y += n, a += step_a, b += step_b) {
      for (int64_t i = 0; i < n; ++i) y[i] = function(a[i], b[i]);
    }
  }

  void Concat(const GraphNode& node, float* y) const {
    int64_t column = 0;
    for (const size_t input : node.inputs) {
      const int64_t step = rows(input) == rows(node.output) ? width(input) : 0;
      for (int64_t r = 0; r < rows(node.output); ++r) {
        std::copy_n(values_[input] + r * step, width(input), y + r * width(node.output) + column);
      }
      column += width(input);
    }
  }

  AttentionShape Shape() const {
    AttentionShape shape;
    shape.row_offsets = {0, static_cast<int32_t>(request_.candidates)};
    shape.history_offsets = {0, static_cast<int32_t>(request_.history)};
    return shape;
  }

  void Attention(const GraphNode& node, float* y) {
    AttentionShape shape = Shape();
    shape.behaviour = width(node.inputs[0]);
    shape.hidden = width(node.inputs[2]);
    AttentionInputs in;
    in.query = values_[node.inputs[0]];
    in.history = values_[node.inputs[1]];
    in.query_hidden = values_[node.inputs[2]];
    in.history_hidden = values_[node.inputs[3]];
    in.product = plan_.weights.at(node.weights[0]).data.data();
    in.score = plan_.weights.at(node.weights[1]).data.data();
    int64_t sets = 1;
    if (node.inputs.size() > 4) {
      shape.modal = width(node.inputs[4]);
      in.query_modal = values_[node.inputs[4]];
      in.history_modal = values_[node.inputs[5]];
      sets = 2;
    }
    AttentionForward(shape, in, y, scratch_.Take(request_.candidates * request_.history * sets));
  }

  const GraphPlan& plan_;
  const GraphRequest& request_;
  Scratch& scratch_;
  std::vector<const float*> values_;  // of each value that is there
};

}  // namespace

struct GraphRunner::Impl {
  const GraphPlan plan;

  std::mutex mutex;
  std::vector<std::unique_ptr<Scratch>> idle;  // guarded by mutex
};

GraphRunner::GraphRunner(const Graph& graph)
    : impl_(new Impl{.plan = PlanOf(graph), .mutex = {}, .idle = {}}) {}
GraphRunner::~GraphRunner() = default;

const std::vector<GraphValue>& GraphRunner::inputs() const { return impl_->plan.inputs; }
const std::vector<std::string>& GraphRunner::outputs() const { return impl_->plan.output_names; }

absl::StatusOr<std::vector<std::vector<float>>> GraphRunner::Run(
    const GraphRequest& request) const {
  SAVIOR_RETURN_IF_ERROR(Check(impl_->plan.inputs, request));
  std::unique_ptr<Scratch> scratch;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->idle.empty()) {
      scratch = std::move(impl_->idle.back());
      impl_->idle.pop_back();
    }
  }
  if (scratch == nullptr) scratch = std::make_unique<Scratch>();
  OneRun run(impl_->plan, request, scratch.get());
  run.Compute();
  std::vector<std::vector<float>> outputs;
  for (const size_t output : impl_->plan.output_values) {
    const float* const column = run.value(output);
    outputs.emplace_back(column, column + request.candidates);
  }
  const std::lock_guard lock(impl_->mutex);
  impl_->idle.push_back(std::move(scratch));
  return outputs;
}

}  // namespace savior
