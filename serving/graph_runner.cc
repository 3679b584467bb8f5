#include "serving/graph_runner.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "serving/graph_plan.h"
#include "serving/packed_product.h"
#include "serving/request_attention.h"

namespace savior {
namespace {

// Memory of one run, handed out in pieces that stay where they are; keeps what it once had.
class Scratch {
 public:
  // Everything handed out is free again.
  void Reset() {
    if (blocks_.size() > 1) {
      // The next run finds all that this one needed in one block.
      blocks_.clear();
      blocks_.push_back(std::make_unique_for_overwrite<float[]>(taken_));
      size_ = taken_;
    }
    used_ = taken_ = 0;
  }
  float* Take(int64_t count) {
    const size_t size = static_cast<size_t>(count + kPanel - 1) / kPanel * kPanel;
    if (blocks_.empty() || used_ + size > size_) {
      size_ = std::max(size, kLeast);
      blocks_.push_back(std::make_unique_for_overwrite<float[]>(size_));
      used_ = 0;
    }
    float* const piece = blocks_.back().get() + used_;
    used_ += size;
    taken_ += size;
    return piece;
  }

 private:
  static constexpr size_t kLeast = size_t{1} << 16;

  std::vector<std::unique_ptr<float[]>> blocks_;
  size_t size_ = 0;   // of the last block
  size_t used_ = 0;   // of it
  size_t taken_ = 0;  // of all blocks
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

// Candidates that go through the plan together: what lies between the steps stays in the cache, and
// a multiple of the tiles of SumProducts.
constexpr int64_t kBlock = 60;

// Memory of a run: of the whole request, and of the candidates at hand.
struct Workspace {
  Scratch request, block;
};

// One run of a plan: steps of the user and the history first, then the others, block by block.
class OneRun {
 public:
  OneRun(const GraphPlan& plan, const GraphRequest& request, Workspace* workspace)
      : plan_(plan),
        request_(request),
        workspace_(*workspace),
        values_(plan.values.size(), nullptr),
        attentions_(plan.values.size()) {
    workspace_.request.Reset();
  }

  std::vector<std::vector<float>> Compute() {
    std::vector<std::vector<float>> outputs(plan_.output_values.size());
    PlaceInputs(0);
    scratch_ = &workspace_.request;
    for (const PlanStep& step : plan_.steps) {
      if (!OfCandidates(step)) Compute(step);
    }
    for (int64_t begin = 0; begin < request_.candidates; begin += kBlock) {
      candidates_ = std::min(kBlock, request_.candidates - begin);
      workspace_.block.Reset();
      scratch_ = &workspace_.block;
      next_ = 0;
      PlaceInputs(begin);
      for (const PlanStep& step : plan_.steps) {
        if (OfCandidates(step)) Compute(step);
      }
      for (size_t o = 0; o < outputs.size(); ++o) {
        const float* const column = values_[plan_.output_values[o]];
        outputs[o].insert(outputs[o].end(), column, column + candidates_);
      }
    }
    return outputs;
  }

 private:
  // What an attention's output is made of.
  struct Attention {
    const float* weights[2] =
        {};  // p_m, p_b [block, PaddedPositions(T)]; no p_m without modal scores
    const float* values = nullptr;  // [T, stride]
    int64_t width = 0, stride = 0;
  };

  bool OfCandidates(const PlanStep& step) const {
    return plan_.values[step.node.output].rows == Rows::kCandidates;
  }
  int64_t rows(size_t value) const {
    const Rows of = plan_.values[value].rows;
    return of == Rows::kCandidates ? candidates_ : RowsOf(of, request_);
  }
  int64_t width(size_t value) const { return plan_.values[value].width; }
  int64_t size(size_t value) const { return rows(value) * width(value); }

  // Of candidates: from number `begin` on.
  void PlaceInputs(int64_t begin) {
    for (size_t i = 0; i < plan_.input_values.size(); ++i) {
      const size_t value = plan_.input_values[i];
      const bool moves = plan_.values[value].rows == Rows::kCandidates;
      values_[value] = request_.inputs[i].data() + (moves ? begin * width(value) : 0);
    }
  }

  // What every block needs alike: made for the first, in the memory of the request, and found again
  // by the others, since all blocks ask for the same things in the same order. Not nested.
  template <typename Make>
  const float* Once(Make make) {
    if (next_ == once_.size()) {
      Scratch* const before = std::exchange(scratch_, &workspace_.request);
      once_.push_back(make());
      scratch_ = before;
    }
    return once_[next_++];
  }

  void Compute(const PlanStep& step) {
    const size_t output = step.node.output;
    if (step.node.op == GraphOp::kBiTargetAttention) {
      values_[output] = nullptr;  // the block's before
      Attend(step);
      if (step.whole) WholeAttention(output);
      return;
    }
    float* const y = scratch_->Take(size(output));
    Compute(step, y);
    values_[output] = y;
  }

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
        for (int64_t i = 0; i < size(node.output); ++i) y[i] = x[i] > 0.0f ? x[i] : 0.0f;
        break;
      case GraphOp::kSigmoid:
        for (int64_t i = 0; i < size(node.output); ++i) y[i] = 1.0f / (1.0f + std::exp(-x[i]));
        break;
      case GraphOp::kTiers:
        PositionTiers(candidates_, request_.history, width(node.inputs[0]), x,
                      Once([&] { return PackHistory(node.inputs[1]); }), width(node.output),
                      scratch_->Take((candidates_ + 1) * PaddedPositions(request_.history) + 1), y);
        break;
      case GraphOp::kBiTargetAttention:
        break;  // Attend's
    }
  }

  ProductTerm TermOf(const LinearPlan::Term& term) const {
    return PackedTerm(values_[term.x.value] + term.x.begin, width(term.x.value), term.x.width,
                      term.weight.values.data());
  }

  // (p V) W as p (V W) where that is less work: V W is made once per request. Not a question of C,
  // so that a score does not depend on how many are ranked.
  ProductTerm TermOf(const LinearPlan::AttentionTerm& term, int64_t outputs) {
    const Attention& attention = attentions_[term.x.value];
    const int64_t positions = request_.history, columns = term.x.width;
    if (positions * outputs > positions * columns + columns * outputs) {
      return PackedTerm(WholeAttention(term.x.value) + term.x.begin, width(term.x.value), columns,
                        term.weight.values.data());
    }
    const int64_t stride = PanelsOf(outputs) * kPanel;
    const float* const product = Once([&] {
      float* const made = scratch_->Take(positions * stride);
      if (stride != outputs) std::fill_n(made, positions * stride, 0.0f);
      const ProductTerm values = PackedTerm(attention.values + term.begin, attention.stride,
                                            columns, term.weight.values.data());
      SumProducts({&values, 1}, nullptr, Activation::kNone, positions, outputs, stride, made);
      return made;
    });
    return RowMajorTerm(attention.weights[term.second], PaddedPositions(positions), positions,
                        product, stride);
  }

  void Linear(const LinearPlan& plan, int64_t n, float* y) {
    std::vector<ProductTerm> terms;
    const float* bias = plan.bias.data();
    if (!plan.once.empty()) {
      bias = Once([&] {
        std::vector<ProductTerm> of_one;
        for (const LinearPlan::Term& term : plan.once) of_one.push_back(TermOf(term));
        float* const sum = scratch_->Take(plan.outputs);
        SumProducts(of_one, plan.bias.data(), Activation::kNone, 1, plan.outputs, plan.outputs,
                    sum);
        return sum;
      });
    }
    for (const LinearPlan::Term& term : plan.terms) terms.push_back(TermOf(term));
    for (const LinearPlan::Scaled& scaled : plan.scaled) {
      ProductTerm& term = terms[scaled.term];
      term.weight =
          Once([&] { return AddScaled(term.weight, scaled.weight, values_[scaled.scale]); });
    }
    for (const LinearPlan::AttentionTerm& term : plan.attention) {
      terms.push_back(TermOf(term, plan.outputs));
    }
    SumProducts(terms, bias, plan.activation, n, plan.outputs, plan.outputs, y);
  }

  // `to` + `from` diag(scale).
  const float* AddScaled(const float* to, const PackedWeight& from, const float* scale) {
    const auto size = static_cast<int64_t>(from.values.size());
    float* const sum = scratch_->Take(size);
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

  // Rows of the history, [T, width], in panels of positions.
  const float* PackHistory(const float* rows, int64_t columns) {
    float* const panels = scratch_->Take(PaddedPositions(request_.history) * columns);
    PackPanels(rows, request_.history, columns, 0, columns, panels);
    return panels;
  }
  const float* PackHistory(size_t value) { return PackHistory(values_[value], width(value)); }

  // What modal queries are multiplied with.
  const float* ModalKeys(const PlanStep& step) {
    const size_t history = step.node.inputs[5];
    if (!step.modal_key.has_value()) return PackHistory(history);
    const int64_t keys = width(step.node.inputs[4]);
    float* const rows = scratch_->Take(request_.history * keys);
    const ProductTerm term =
        PackedTerm(values_[history], width(history), width(history), step.modal_key->values.data());
    SumProducts({&term, 1}, nullptr, Activation::kNone, request_.history, keys, keys, rows);
    return PackHistory(rows, keys);
  }

  // Everything but the weighted sums. Without candidates' rows where it says Once.
  void Attend(const PlanStep& step) {
    const GraphNode& node = step.node;
    const int64_t positions = request_.history, padded = PaddedPositions(positions);
    const auto x = [&](size_t i) { return values_[node.inputs[i]]; };
    Attention& attention = attentions_[node.output];
    float* const by_behaviour = scratch_->Take(candidates_ * padded);
    DinInputs in{.candidates = candidates_,
                 .positions = positions,
                 .behaviour = width(node.inputs[0]),
                 .hidden = width(node.inputs[2]),
                 .query = x(0),
                 .query_hidden = x(2),
                 .product = plan_.weights.at(node.weights[0]).data.data(),
                 .score = plan_.weights.at(node.weights[1]).data.data()};
    in.history = Once([&] { return PackHistory(node.inputs[1]); });
    in.history_hidden = Once([&] { return PackHistory(node.inputs[3]); });
    DinScores(in, scratch_->Take(in.hidden * in.behaviour), by_behaviour);
    SoftmaxPositions(candidates_, positions, by_behaviour);
    attention.weights[1] = by_behaviour;

    std::vector<size_t> sides = {node.inputs[1]};
    if (node.inputs.size() > 4) {
      const int64_t modal = width(node.inputs[4]);
      float* const by_modal = scratch_->Take(candidates_ * padded);
      const float* const keys = Once([&] { return ModalKeys(step); });
      const ProductTerm term = PackedTerm(x(4), modal, modal, keys);
      SumProducts({&term, 1}, nullptr, Activation::kNone, candidates_, positions, padded, by_modal);
      SoftmaxPositions(candidates_, positions, by_modal);
      attention.weights[0] = by_modal;
      sides = {node.inputs[5], node.inputs[1]};
    }
    attention.width = 0;
    for (const size_t side : sides) attention.width += width(side);
    attention.stride = PanelsOf(attention.width) * kPanel;
    attention.values = Once([&] { return SideBySide(sides, attention.stride); });
  }

  // Values of the history, rows `stride` apart; zeros beyond them.
  const float* SideBySide(const std::vector<size_t>& sides, int64_t stride) {
    float* const rows = scratch_->Take(request_.history * stride);
    std::fill_n(rows, request_.history * stride, 0.0f);
    int64_t column = 0;
    for (const size_t side : sides) {
      for (int64_t t = 0; t < request_.history; ++t) {
        std::copy_n(values_[side] + t * width(side), width(side), rows + t * stride + column);
      }
      column += width(side);
    }
    return rows;
  }

  // The attention's output, made when it is first asked for.
  const float* WholeAttention(size_t value) {
    if (values_[value] != nullptr) return values_[value];
    const Attention& attention = attentions_[value];
    float* const out = scratch_->Take(size(value));
    float* to = out;
    for (const float* const weights : attention.weights) {
      if (weights == nullptr) continue;
      const ProductTerm term = RowMajorTerm(weights, PaddedPositions(request_.history),
                                            request_.history, attention.values, attention.stride);
      SumProducts({&term, 1}, nullptr, Activation::kNone, candidates_, attention.width,
                  width(value), to);
      to += attention.width;
    }
    values_[value] = out;
    return out;
  }

  const GraphPlan& plan_;
  const GraphRequest& request_;
  Workspace& workspace_;
  Scratch* scratch_ = nullptr;        // one of its two
  int64_t candidates_ = 0;            // of the block
  std::vector<const float*> once_;    // in the order in which a block asks for them
  size_t next_ = 0;                   // of once_
  std::vector<const float*> values_;  // of each value that is there
  std::vector<Attention> attentions_;
};

}  // namespace

struct GraphRunner::Impl {
  const GraphPlan plan;

  std::mutex mutex;
  std::vector<std::unique_ptr<Workspace>> idle;  // guarded by mutex
};

GraphRunner::GraphRunner(const Graph& graph)
    : impl_(new Impl{.plan = PlanOf(graph), .mutex = {}, .idle = {}}) {}
GraphRunner::~GraphRunner() = default;

const std::vector<GraphValue>& GraphRunner::inputs() const { return impl_->plan.inputs; }
const std::vector<std::string>& GraphRunner::outputs() const { return impl_->plan.output_names; }

absl::StatusOr<std::vector<std::vector<float>>> GraphRunner::Run(
    const GraphRequest& request) const {
  SAVIOR_RETURN_IF_ERROR(Check(impl_->plan.inputs, request));
  std::unique_ptr<Workspace> workspace;
  {
    const std::lock_guard lock(impl_->mutex);
    if (!impl_->idle.empty()) {
      workspace = std::move(impl_->idle.back());
      impl_->idle.pop_back();
    }
  }
  if (workspace == nullptr) workspace = std::make_unique<Workspace>();
  std::vector<std::vector<float>> outputs = OneRun(impl_->plan, request, workspace.get()).Compute();
  const std::lock_guard lock(impl_->mutex);
  impl_->idle.push_back(std::move(workspace));
  return outputs;
}

}  // namespace savior
