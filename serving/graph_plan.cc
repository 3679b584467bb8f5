#include "serving/graph_plan.h"

#include <algorithm>
#include <set>
#include <utility>

namespace savior {
namespace {

class Planner {
 public:
  explicit Planner(const Graph& graph)
      : graph_(graph), made_by_(graph.values().size(), nullptr), readers_(graph.values().size()) {
    for (const GraphNode& node : graph.nodes()) {
      made_by_[node.output] = &node;
      for (const size_t input : node.inputs) ++readers_[input];
    }
    for (const size_t output : graph.outputs()) ++readers_[output];
  }

  GraphPlan Plan() {
    GraphPlan plan;
    plan.values = graph_.values();
    plan.input_values = graph_.inputs();
    plan.output_values = graph_.outputs();
    for (const size_t input : graph_.inputs()) plan.inputs.push_back(graph_.value(input));
    for (const size_t output : graph_.outputs()) {
      plan.output_names.push_back(graph_.value(output).name);
      needed_.insert(output);
      whole_.insert(output);
    }
    // Backwards, so that a node knows whether anybody reads it.
    for (size_t i = graph_.nodes().size(); i-- > 0;) {
      const GraphNode& node = graph_.nodes()[i];
      if (!needed_.contains(node.output)) continue;
      PlanStep step{.node = node, .whole = whole_.contains(node.output)};
      if (const GraphNode* const layer = LayerOf(node); layer != nullptr) {
        step.node.op = GraphOp::kLinear;
        step.linear = PlanLinear(*layer);
        if (layer != &node) step.linear->activation = Activation::kRelu;
        NeedSourcesOf(*step.linear);
      } else {
        if (node.op == GraphOp::kBiTargetAttention) MoveModalQuery(&step);
        needed_.insert(step.node.inputs.begin(), step.node.inputs.end());
        whole_.insert(step.node.inputs.begin(), step.node.inputs.end());
        for (const std::string& name : node.weights) plan.weights[name] = graph_.weight(name);
      }
      plan.steps.push_back(std::move(step));
    }
    std::ranges::reverse(plan.steps);
    return plan;
  }

 private:
  // The layer that `node` is, alone or with the relu after it; null: none.
  const GraphNode* LayerOf(const GraphNode& node) const {
    if (node.op == GraphOp::kLinear) return &node;
    if (node.op != GraphOp::kRelu) return nullptr;
    const GraphNode* const layer = made_by_[node.inputs[0]];
    const bool alone =
        layer != nullptr && layer->op == GraphOp::kLinear && readers_[layer->output] == 1;
    return alone ? layer : nullptr;
  }

  void MoveModalQuery(PlanStep* step) const {
    if (step->node.inputs.size() < 5) return;
    size_t& query = step->node.inputs[4];
    const GraphNode* const layer = made_by_[query];
    if (layer == nullptr || layer->op != GraphOp::kLinear || layer->weights.size() > 1 ||
        readers_[query] > 1) {
      return;
    }
    const HostTensor& weight = graph_.weight(layer->weights[0]);
    const int64_t out = weight.shape[0], in = weight.shape[1];
    HostTensor transposed{{in, out}, std::vector<float>(weight.data.size())};
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        transposed.data[static_cast<size_t>(i * out + o)] =
            weight.data[static_cast<size_t>(o * in + i)];
      }
    }
    step->modal_key.emplace(transposed, 0, out);
    query = layer->inputs[0];
  }

  // Where the columns of `value` lie, looking through concats and slices.
  std::vector<Columns> Resolve(size_t value) const {
    const GraphNode* const node = made_by_[value];
    if (node != nullptr && node->op == GraphOp::kConcat) {
      std::vector<Columns> all;
      for (const size_t part : node->inputs) {
        const std::vector<Columns> of_part = Resolve(part);
        all.insert(all.end(), of_part.begin(), of_part.end());
      }
      return all;
    }
    if (node != nullptr && node->op == GraphOp::kSlice) {
      const std::vector<Columns> base = Resolve(node->inputs[0]);
      if (base.size() == 1) {
        return {{base[0].value, base[0].begin + node->begin, node->end - node->begin}};
      }
    }
    return {{value, 0, graph_.value(value).width}};
  }

  bool OneRow(size_t value) const { return graph_.value(value).rows == Rows::kOne; }

  // If `x` is all of a product of one row and a value that is all of another of `parts`: that row
  // and the other part.
  std::optional<std::pair<size_t, size_t>> ScaledPart(const Columns& x,
                                                      const std::vector<Columns>& parts) const {
    const GraphNode* const node = made_by_[x.value];
    if (node == nullptr || node->op != GraphOp::kMultiply || x.width != WidthOf(x.value)) return {};
    size_t scale = node->inputs[0], of = node->inputs[1];
    if (!OneRow(scale)) std::swap(scale, of);
    if (!OneRow(scale) || OneRow(of)) return {};
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].value == of && parts[i].width == WidthOf(of)) return {{scale, i}};
    }
    return {};
  }

  int64_t WidthOf(size_t value) const { return graph_.value(value).width; }

  bool IsAttention(size_t value) const {
    return made_by_[value] != nullptr && made_by_[value]->op == GraphOp::kBiTargetAttention;
  }

  // The columns `x` of an attention's output, by the sums that they belong to. `begin`: of the
  // columns in `weight`.
  void AddAttentionTerms(const Columns& x, const HostTensor& weight, int64_t begin,
                         LinearPlan* plan) const {
    const bool modal = made_by_[x.value]->inputs.size() > 4;
    const int64_t half = modal ? WidthOf(x.value) / 2 : WidthOf(x.value);
    for (const bool second : {false, true}) {
      const int64_t from = std::max(x.begin, second ? half : 0);
      const int64_t until = std::min(x.begin + x.width, second ? 2 * half : half);
      if (from >= until) continue;
      plan->attention.push_back({.x = {x.value, from, until - from},
                                 .second = second || !modal,
                                 .begin = from - (second ? half : 0),
                                 .weight = {weight, begin + from - x.begin, until - from}});
    }
  }

  LinearPlan PlanLinear(const GraphNode& node) const {
    const HostTensor& weight = graph_.weight(node.weights[0]);
    LinearPlan plan;
    plan.outputs = weight.shape[0];
    plan.bias = node.weights.size() > 1 ? graph_.weight(node.weights[1]).data
                                        : std::vector<float>(static_cast<size_t>(plan.outputs));
    const bool many = !OneRow(node.output);
    const std::vector<Columns> parts = Resolve(node.inputs[0]);
    std::vector<size_t> term_of(parts.size());
    std::vector<std::pair<size_t, LinearPlan::Scaled>> scaled;  // beside which part
    int64_t begin = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (IsAttention(parts[i].value)) {
        AddAttentionTerms(parts[i], weight, begin, &plan);
        begin += parts[i].width;
        continue;
      }
      PackedWeight packed(weight, begin, parts[i].width);
      begin += parts[i].width;
      if (many && OneRow(parts[i].value)) {
        plan.once.push_back({parts[i], std::move(packed)});
      } else if (const auto found = ScaledPart(parts[i], parts); found.has_value()) {
        scaled.push_back({found->second, {.scale = found->first, .weight = std::move(packed)}});
      } else {
        term_of[i] = plan.terms.size();
        plan.terms.push_back({parts[i], std::move(packed)});
      }
    }
    for (auto& [part, term] : scaled) {
      term.term = term_of[part];
      plan.scaled.push_back(std::move(term));
    }
    return plan;
  }

  void NeedSourcesOf(const LinearPlan& linear) {
    for (const auto* terms : {&linear.once, &linear.terms}) {
      for (const LinearPlan::Term& term : *terms) needed_.insert(term.x.value);
    }
    for (const LinearPlan::AttentionTerm& term : linear.attention) needed_.insert(term.x.value);
    for (const LinearPlan::Scaled& scaled : linear.scaled) needed_.insert(scaled.scale);
  }

  const Graph& graph_;
  std::vector<const GraphNode*> made_by_;  // null: an input
  std::vector<int64_t> readers_;           // of each value
  std::set<size_t> needed_;                // by anybody
  std::set<size_t> whole_;                 // by others than layers
};

}  // namespace

GraphPlan PlanOf(const Graph& graph) { return Planner(graph).Plan(); }

}  // namespace savior
