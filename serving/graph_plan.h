// What GraphRunner does of a graph, and in which form: worked out once, from the graph alone.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "serving/graph.h"
#include "serving/packed_product.h"

namespace savior {

// Columns [begin, begin + width) of a value.
struct Columns {
  size_t value = 0;
  int64_t begin = 0, width = 0;
};

// A layer over columns that lie in several values (a concat is never made for it).
struct LinearPlan {
  struct Term {
    Columns x;
    PackedWeight weight;
  };
  // Columns of one of an attention's weighted sums: p [C, T] times `columns` of its values [T,
  // modal + behaviour].
  struct AttentionTerm {
    Columns x;          // where they lie in the attention's output
    bool second;        // the second half of the output: p_b, else p_m
    int64_t begin = 0;  // the first column of the values
    PackedWeight weight;
  };
  // u * x beside x: `weight`, scaled by the row `scale`, is added to that of terms[term].
  struct Scaled {
    size_t term = 0;
    size_t scale = 0;  // a value of one row
    PackedWeight weight;
  };
  int64_t outputs = 0;
  Activation activation = Activation::kNone;
  std::vector<float> bias;  // [outputs], zeros if the layer has none
  std::vector<Term> once;   // terms of one row in a layer of many: added to the bias
  std::vector<AttentionTerm> attention;
  std::vector<Term> terms;
  std::vector<Scaled> scaled;
};

struct PlanStep {
  GraphNode node;
  std::optional<LinearPlan> linear = {};  // of kLinear
  // Of kBiTargetAttention: others than layers read its output. (Layers may do with its weights.)
  bool whole = false;
  // Likewise: W^T of a modal query W z~, in panels. q . m = z~ . (W^T m): what is projected is the
  // history, once per request, and the node's modal query is z~.
  std::optional<PackedWeight> modal_key = {};
};

struct GraphPlan {
  std::vector<GraphValue> values;  // the graph's
  std::vector<GraphValue> inputs;
  std::vector<size_t> input_values, output_values;
  std::vector<std::string> output_names;
  std::vector<PlanStep> steps;                // only what an output depends on
  std::map<std::string, HostTensor> weights;  // of the attention
};

GraphPlan PlanOf(const Graph& graph);

}  // namespace savior
