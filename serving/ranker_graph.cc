#include "serving/ranker_graph.h"

#include <absl/strings/str_cat.h>

#include <string>
#include <utility>
#include <vector>

#include "worker/arm.h"
#include "worker/model/attention_kernel.h"
#include "worker/model/dense.h"
#include "worker/tables.h"

namespace savior {
namespace {

class Builder {
 public:
  Builder(const Config& config, const RankerSizes& sizes, const TensorFile& dense)
      : config_(config),
        sizes_(sizes),
        dense_(dense),
        arm_(ArmOf(config.model.arm)),
        id_(config.model.id_dim),
        modal_(config.encoder.dim) {}

  absl::StatusOr<Graph> Build() {
    AddInputs();
    SAVIOR_RETURN_IF_ERROR(AddBehaviours());
    std::vector<size_t> x;
    SAVIOR_RETURN_IF_ERROR(AddAttention(&x));
    SAVIOR_RETURN_IF_ERROR(AddTarget(&x));
    size_t shared = graph_.AddConcat("dnn.input", x);
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<int64_t> dnn, ParseSizes(config_.model.dnn));
    SAVIOR_ASSIGN_OR_RETURN(shared, AddHiddenLayers("dnn", shared, dnn));
    SAVIOR_ASSIGN_OR_RETURN(const size_t ctr, AddTower("ctr", shared));
    SAVIOR_ASSIGN_OR_RETURN(const size_t cvr, AddTower("cvr", shared));
    graph_.AddOutput(ctr);
    graph_.AddOutput(cvr);
    graph_.AddOutput(graph_.AddProduct("p_ctcvr", ctr, cvr));
    return std::move(graph_);
  }

 private:
  bool tiers() const { return arm_.cross_attention && config_.model.simtier; }
  bool behaviour_features() const {
    return config_.model.behaviour_features && sizes_.features > 0;
  }

  void AddInputs() {
    const int64_t features = sizes_.features * config_.model.feature_dim;
    const int64_t context = sizes_.context * config_.model.feature_dim;
    user_ = graph_.AddInput("user", Rows::kOne, id_);
    history_ = graph_.AddInput("history_item", Rows::kHistory, id_);
    if (arm_.modal_attention) {
      history_aligned_ = graph_.AddInput("history_aligned", Rows::kHistory, modal_);
    }
    if (tiers()) history_content_ = graph_.AddInput("history_content", Rows::kHistory, modal_);
    if (behaviour_features()) {
      history_features_ = graph_.AddInput("history_features", Rows::kHistory, features);
    }
    target_ = graph_.AddInput("item", Rows::kCandidates, id_);
    if (arm_.content) aligned_ = graph_.AddInput("aligned", Rows::kCandidates, modal_);
    if (tiers()) content_ = graph_.AddInput("content", Rows::kCandidates, modal_);
    if (features > 0) features_ = graph_.AddInput("features", Rows::kCandidates, features);
    if (context > 0) context_ = graph_.AddInput("context", Rows::kCandidates, context);
    if (sizes_.numerics > 0) {
      numerics_ = graph_.AddInput("numerics", Rows::kCandidates, sizes_.numerics);
    }
    if (arm_.codes_in_dnn) {
      const int64_t rows = config_.codebook.levels + static_cast<int64_t>(PrefixesOf(config_));
      codes_ = graph_.AddInput("codes", Rows::kCandidates, rows * modal_);
    }
  }

  absl::Status TakeWeight(const std::string& name, const std::vector<int64_t>& shape) {
    if (graph_.weights().contains(name)) return absl::OkStatus();  // both sides of the attention
    SAVIOR_ASSIGN_OR_RETURN(HostTensor tensor, TakeTensor(dense_, name, shape));
    graph_.AddWeight(name, std::move(tensor));
    return absl::OkStatus();
  }

  // Layer `layer` of the ranker over `x`, as value `name`.
  absl::StatusOr<size_t> AddLayer(const std::string& name, const std::string& layer, size_t x,
                                  int64_t out, bool bias) {
    const std::string weight = layer + ".weight";
    SAVIOR_RETURN_IF_ERROR(TakeWeight(weight, {out, graph_.value(x).width}));
    if (bias) SAVIOR_RETURN_IF_ERROR(TakeWeight(layer + ".bias", {out}));
    return graph_.AddLinear(name, x, weight, bias ? layer + ".bias" : "");
  }

  // b of candidates and of positions: ID embeddings, plus projected side features where the
  // configuration says so.
  absl::Status AddBehaviours() {
    if (!behaviour_features()) return absl::OkStatus();
    const auto add = [&](const std::string& side, size_t features,
                         size_t* behaviours) -> absl::Status {
      SAVIOR_ASSIGN_OR_RETURN(
          const size_t projected,
          AddLayer(side + ".projected_features", "behaviour_features", features, id_, false));
      *behaviours = graph_.AddSum(side + ".behaviour", *behaviours, projected);
      return absl::OkStatus();
    };
    SAVIOR_RETURN_IF_ERROR(add("target", features_, &target_));
    return add("history", history_features_, &history_);
  }

  absl::Status AddAttention(std::vector<size_t>* x) {
    const int64_t hidden = config_.model.attention_hidden;
    SAVIOR_RETURN_IF_ERROR(TakeWeight("din.product", {hidden, id_}));
    SAVIOR_RETURN_IF_ERROR(TakeWeight("din.score", {hidden}));
    Graph::Attention attention{.query = target_,
                               .history = history_,
                               .modal = arm_.modal_attention,
                               .product = "din.product",
                               .score = "din.score"};
    SAVIOR_ASSIGN_OR_RETURN(attention.query_hidden,
                            AddLayer("target.din", "din.query", target_, hidden, true));
    SAVIOR_ASSIGN_OR_RETURN(attention.history_hidden,
                            AddLayer("history.din", "din.history", history_, hidden, false));
    if (!arm_.modal_attention) {
      x->push_back(graph_.AddAttention("attention", attention));
      return absl::OkStatus();
    }
    attention.history_modal = history_aligned_;
    SAVIOR_ASSIGN_OR_RETURN(
        attention.query_modal,
        AddLayer("target.modal_query", "attention.query_modal", aligned_, modal_, false));
    const size_t all = graph_.AddAttention("attention", attention);
    if (arm_.cross_attention) {
      x->push_back(all);
      return absl::OkStatus();
    }
    const int64_t width = graph_.value(all).width;
    x->push_back(graph_.AddSlice("attention.modal", all, 0, modal_));
    x->push_back(graph_.AddSlice("attention.behaviour", all, width - id_, width));
    return absl::OkStatus();
  }

  // Everything else that the DNN looks at, in the order of its first layer's columns.
  absl::Status AddTarget(std::vector<size_t>* x) {
    x->insert(x->end(), {user_, target_, graph_.AddProduct("user_by_target", user_, target_)});
    if (arm_.content) {
      SAVIOR_ASSIGN_OR_RETURN(const size_t user_modal,
                              AddLayer("user.modal", "user_modal", user_, modal_, false));
      x->insert(x->end(), {aligned_, graph_.AddProduct("user_by_aligned", user_modal, aligned_)});
    }
    if (arm_.codes_in_dnn) x->push_back(codes_);
    if (tiers()) {
      x->push_back(
          graph_.AddSimilarityTiers("tiers", content_, history_content_, kSimilarityTiers));
    }
    if (sizes_.features > 0) x->push_back(features_);
    if (sizes_.context > 0) x->push_back(context_);
    if (sizes_.numerics > 0) x->push_back(numerics_);
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> AddHiddenLayers(const std::string& stack, size_t x,
                                         const std::vector<int64_t>& sizes) {
    for (size_t i = 0; i < sizes.size(); ++i) {
      const std::string layer = absl::StrCat(stack, ".", i);
      SAVIOR_ASSIGN_OR_RETURN(x, AddLayer(layer + ".linear", layer, x, sizes[i], true));
      x = graph_.AddRelu(layer, x);
    }
    return x;
  }

  absl::StatusOr<size_t> AddTower(const std::string& name, size_t x) {
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<int64_t> tower, ParseSizes(config_.model.tower));
    SAVIOR_ASSIGN_OR_RETURN(x, AddHiddenLayers(name, x, tower));
    SAVIOR_ASSIGN_OR_RETURN(x, AddLayer(name + ".logit", name + ".out", x, 1, true));
    return graph_.AddSigmoid("p_" + name, x);
  }

  const Config& config_;
  const RankerSizes& sizes_;
  const TensorFile& dense_;
  const Arm arm_;
  const int64_t id_, modal_;
  Graph graph_;
  // Values; those that the arm does not use stay 0 and unused.
  size_t user_ = 0, history_ = 0, history_aligned_ = 0, history_content_ = 0, history_features_ = 0;
  size_t target_ = 0, aligned_ = 0, content_ = 0, features_ = 0, context_ = 0, numerics_ = 0,
         codes_ = 0;
};

}  // namespace

absl::StatusOr<Graph> RankerGraph(const Config& config, const RankerSizes& sizes,
                                  const TensorFile& dense) {
  return Builder(config, sizes, dense).Build();
}

}  // namespace savior
