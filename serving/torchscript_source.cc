#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/substitute.h>

#include <vector>

#include "serving/torchscript_writer.h"

namespace savior {
namespace {

class Source {
 public:
  explicit Source(const Graph& graph) : graph_(graph) {}

  std::string Forward() {
    std::vector<std::string> parameters = {"self"}, results, types;
    for (const size_t input : graph_.inputs()) {
      parameters.push_back(Local(input) + ": Tensor");
    }
    for (const size_t output : graph_.outputs()) {
      results.push_back(absl::StrCat("torch.squeeze(", Local(output), ", 1)"));
      types.emplace_back("Tensor");
    }
    text_ = absl::Substitute("def forward($0) -> Tuple[$1]:\n", absl::StrJoin(parameters, ", "),
                             absl::StrJoin(types, ", "));
    for (const GraphNode& node : graph_.nodes()) AddNode(node);
    Line("return (" + absl::StrJoin(results, ", ") + ")");
    return text_;
  }

 private:
  static std::string Identifier(const std::string& name) {
    return absl::StrReplaceAll(name, {{".", "_"}});
  }
  std::string Local(size_t value) const { return Identifier(graph_.value(value).name); }
  static std::string Weight(const std::string& name) { return "self." + Identifier(name); }

  void Line(const std::string& line) { absl::StrAppend(&text_, "    ", line, "\n"); }
  void Let(const std::string& name, const std::string& value) { Line(name + " = " + value); }

  void AddNode(const GraphNode& node) {
    const std::string out = Local(node.output);
    std::vector<std::string> x;
    for (const size_t input : node.inputs) x.push_back(Local(input));
    switch (node.op) {
      case GraphOp::kLinear: {
        std::vector<std::string> arguments = x;
        for (const std::string& name : node.weights) arguments.push_back(Weight(name));
        Let(out, "torch.linear(" + absl::StrJoin(arguments, ", ") + ")");
        break;
      }
      case GraphOp::kAdd:
        Let(out, x[0] + " + " + x[1]);
        break;
      case GraphOp::kMultiply:
        Let(out, x[0] + " * " + x[1]);
        break;
      case GraphOp::kConcat:
        AddConcat(node, x, out);
        break;
      case GraphOp::kSlice:
        Let(out, absl::Substitute("$0[:, $1:$2]", x[0], node.begin, node.end));
        break;
      case GraphOp::kRelu:
        Let(out, "torch.relu(" + x[0] + ")");
        break;
      case GraphOp::kSigmoid:
        Let(out, "torch.sigmoid(" + x[0] + ")");
        break;
      case GraphOp::kBiTargetAttention:
        AddAttention(node, x, out);
        break;
      case GraphOp::kTiers:
        AddTiers(node, x, out);
        break;
    }
  }

  void AddConcat(const GraphNode& node, std::vector<std::string> x, const std::string& out) {
    const Rows rows = graph_.value(node.output).rows;
    std::string like;
    for (size_t i = 0; i < x.size(); ++i) {
      if (graph_.value(node.inputs[i]).rows == rows) like = x[i];
    }
    for (size_t i = 0; i < x.size(); ++i) {
      if (graph_.value(node.inputs[i]).rows == rows) continue;
      x[i] = absl::Substitute("$0.expand($1.size(0), -1)", x[i], like);
    }
    Let(out, "torch.cat([" + absl::StrJoin(x, ", ") + "], 1)");
  }

  // An empty history: a softmax of nothing is nothing, and a sum over nothing zero.
  void AddAttention(const GraphNode& node, const std::vector<std::string>& x,
                    const std::string& out) {
    const auto name = [&](const char* suffix) { return absl::StrCat(out, "_", suffix); };
    Let(name("product"), absl::Substitute("torch.matmul(torch.unsqueeze($0, 1) * $1, torch.t($2))",
                                          x[0], Weight(node.weights[0]), x[1]));
    Let(name("hidden"), absl::Substitute("torch.relu($0 + torch.unsqueeze($1, 2) + torch.t($2))",
                                         name("product"), x[2], x[3]));
    Let(name("p_behaviour"), absl::Substitute("torch.softmax(torch.matmul($0, $1), 1)",
                                              Weight(node.weights[1]), name("hidden")));
    if (x.size() == 4) {
      Let(out, absl::Substitute("torch.matmul($0, $1)", name("p_behaviour"), x[1]));
      return;
    }
    Let(name("p_modal"),
        absl::Substitute("torch.softmax(torch.matmul($0, torch.t($1)), 1)", x[4], x[5]));
    Let(name("values"), absl::Substitute("torch.cat([$0, $1], 1)", x[5], x[1]));
    Let(out, absl::Substitute("torch.cat([torch.matmul($0, $2), torch.matmul($1, $2)], 1)",
                              name("p_modal"), name("p_behaviour"), name("values")));
  }

  void AddTiers(const GraphNode& node, const std::vector<std::string>& x, const std::string& out) {
    const int64_t bins = graph_.value(node.output).width;
    Let(out + "_cosine", absl::Substitute("torch.matmul($0, torch.t($1))", x[0], x[1]));
    Let(out + "_bin", absl::Substitute("torch.clamp(torch.floor(($0 + 1.0) * $1), 0, $2)",
                                       out + "_cosine", 0.5 * static_cast<double>(bins), bins - 1));
    Let(out + "_hits",
        absl::Substitute("torch.unsqueeze($0, 2) == torch.arange($1, device=$0.device)",
                         out + "_bin", bins));
    Let(out, absl::Substitute("torch.log1p(torch.sum($0, [1]).float())", out + "_hits"));
  }

  const Graph& graph_;
  std::string text_;
};

}  // namespace

std::string TorchScriptSource(const Graph& graph) { return Source(graph).Forward(); }

}  // namespace savior
