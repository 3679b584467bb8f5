#include "serving/ranker_graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "serving/onnx_writer.h"
#include "serving/torchscript_writer.h"
#include "serving/triton.h"
#include "tests/serving/ranker_request.h"

namespace savior {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> InputsOfArm(const std::string& arm, bool behaviour_features) {
  RankerCase model = DefaultCase(arm);
  model.config.model.behaviour_features = behaviour_features;
  const Graph graph =
      *RankerGraph(model.config, model.sizes, RandomRanker(model, 1).dense().Save());
  std::vector<std::string> names;
  for (const size_t input : graph.inputs()) names.push_back(graph.value(input).name);
  return names;
}

TEST(RankerGraph, TakesWhatItsArmUses) {
  EXPECT_THAT(InputsOfArm("base", false),
              ElementsAre("user", "history_item", "item", "features", "context", "numerics"));
  EXPECT_THAT(
      InputsOfArm("generic_content", false),
      ElementsAre("user", "history_item", "item", "aligned", "features", "context", "numerics"));
  EXPECT_THAT(InputsOfArm("mba", true),
              ElementsAre("user", "history_item", "history_aligned", "history_features", "item",
                          "aligned", "features", "context", "numerics"));
  EXPECT_THAT(InputsOfArm("savior", false),
              ElementsAre("user", "history_item", "history_aligned", "history_content", "item",
                          "aligned", "content", "features", "context", "numerics"));
  EXPECT_THAT(InputsOfArm("sid", false), ElementsAre("user", "history_item", "item", "features",
                                                     "context", "numerics", "codes"));
}

TEST(RankerGraph, TakesRowsOfPrefixesBehindThoseOfCodes) {
  for (const int64_t levels : {2, 4}) {
    RankerCase model = DefaultCase("sid");
    model.config.model.prefix_ngrams = true;
    model.config.codebook.levels = levels;
    const auto graph =
        RankerGraph(model.config, model.sizes, RandomRanker(model, 1).dense().Save());
    ASSERT_TRUE(graph.ok()) << graph.status();
    const GraphValue& codes = graph->value(graph->inputs().back());
    EXPECT_EQ(codes.name, "codes");
    EXPECT_EQ(codes.width, (levels + levels - 1) * model.config.encoder.dim);
  }
}

class BadWeights : public testing::Test {
 protected:
  std::string MessageOf(const TensorFile& file) {
    const absl::Status status = RankerGraph(model_.config, model_.sizes, file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    return std::string(status.message());
  }

  const RankerCase model_ = DefaultCase("savior");
  TensorFile dense_ = RandomRanker(model_, 1).dense().Save();
};

TEST_F(BadWeights, AreNamed) {
  TensorFile file = dense_;
  file.tensors.erase("dnn.1.weight");
  EXPECT_EQ(MessageOf(file), "tensor dnn.1.weight is missing");
  file = dense_;
  file.tensors["din.score"] = {{15}, std::vector<float>(15)};
  EXPECT_THAT(MessageOf(file), AllOf(HasSubstr("din.score"), HasSubstr("[15], not [16]")));
  file = dense_;
  file.tensors["cvr.out.bias"].data[0] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(MessageOf(file), HasSubstr("cvr.out.bias"));
}

// Another log's: the first layer has another width.
TEST_F(BadWeights, OfAnotherLogAreNamed) {
  RankerSizes other = model_.sizes;
  ++other.context;
  const absl::Status status = RankerGraph(model_.config, other, dense_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("dnn.0.weight"));
}

TEST_F(BadWeights, ThatInferenceDoesNotUseAreNotLookedAt) {
  for (const char* name : {"fusion.in.weight", "adam.m/dnn.0.weight"}) {
    ASSERT_EQ(dense_.tensors.erase(name), 1u) << name;
  }
  EXPECT_TRUE(RankerGraph(model_.config, model_.sizes, dense_).ok());
}

TEST(OnnxModel, RefusesWhatProtobufCannotHold) {
  const RankerCase model = DefaultCase("base");
  const Graph graph =
      *RankerGraph(model.config, model.sizes, RandomRanker(model, 1).dense().Save());
  const std::string bytes = *OnnxModel(graph, {});
  const auto size = static_cast<int64_t>(bytes.size());
  EXPECT_EQ(*OnnxModel(graph, {.max_bytes = size}), bytes);
  for (const int64_t limit : {size - 1, int64_t{1000}}) {
    const absl::Status status = OnnxModel(graph, {.max_bytes = limit}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(std::to_string(limit)), HasSubstr("model.dnn")));
  }
}

TEST(TorchScriptSource, CanBeRead) {
  RankerCase model = DefaultCase("base");
  model.sizes = {};
  model.config.model.dnn = std::string("8");
  model.config.model.tower.clear();
  const Graph graph =
      *RankerGraph(model.config, model.sizes, RandomRanker(model, 1).dense().Save());
  EXPECT_EQ(
      TorchScriptSource(graph),
      R"(def forward(self, user: Tensor, history_item: Tensor, item: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    target_din = torch.linear(item, self.din_query_weight, self.din_query_bias)
    history_din = torch.linear(history_item, self.din_history_weight)
    attention_product = torch.matmul(torch.unsqueeze(item, 1) * self.din_product, torch.t(history_item))
    attention_hidden = torch.relu(attention_product + torch.unsqueeze(target_din, 2) + torch.t(history_din))
    attention_p_behaviour = torch.softmax(torch.matmul(self.din_score, attention_hidden), 1)
    attention = torch.matmul(attention_p_behaviour, history_item)
    user_by_target = user * item
    dnn_input = torch.cat([attention, user.expand(user_by_target.size(0), -1), item, user_by_target], 1)
    dnn_0_linear = torch.linear(dnn_input, self.dnn_0_weight, self.dnn_0_bias)
    dnn_0 = torch.relu(dnn_0_linear)
    ctr_logit = torch.linear(dnn_0, self.ctr_out_weight, self.ctr_out_bias)
    p_ctr = torch.sigmoid(ctr_logit)
    cvr_logit = torch.linear(dnn_0, self.cvr_out_weight, self.cvr_out_bias)
    p_cvr = torch.sigmoid(cvr_logit)
    p_ctcvr = p_ctr * p_cvr
    return (torch.squeeze(p_ctr, 1), torch.squeeze(p_cvr, 1), torch.squeeze(p_ctcvr, 1))
)");
}

TEST(TritonConfig, NamesInputsAndOutputs) {
  RankerCase model = DefaultCase("base");
  model.sizes = {};
  const Graph graph =
      *RankerGraph(model.config, model.sizes, RandomRanker(model, 1).dense().Save());
  EXPECT_EQ(*TritonConfig(graph, {.name = "savior", .instances = 2}), R"(name: "savior"
platform: "onnxruntime_onnx"
max_batch_size: 0
input [
  { name: "user" data_type: TYPE_FP32 dims: [ 1, 32 ] },
  { name: "history_item" data_type: TYPE_FP32 dims: [ -1, 32 ] },
  { name: "item" data_type: TYPE_FP32 dims: [ -1, 32 ] }
]
output [
  { name: "p_ctr" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "p_cvr" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "p_ctcvr" data_type: TYPE_FP32 dims: [ -1 ] }
]
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "inter_op_thread_count" value: { string_value: "1" } }
)");
  for (const char* name : {"", "a/b", "..", "a b"}) {
    EXPECT_EQ(TritonConfig(graph, {.name = name}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
  EXPECT_FALSE(TritonConfig(graph, {.name = "savior", .instances = 0}).ok());
  EXPECT_FALSE(TritonConfig(graph, {.name = "savior", .threads = 0}).ok());
}

}  // namespace
}  // namespace savior
