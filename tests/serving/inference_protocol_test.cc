#include "serving/inference_protocol.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace savior {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr int64_t kNow = 1'500'000'000;
const RankLimits kLimits{.candidates = 100, .history = 50};

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string Strings(const std::vector<std::string>& texts) {
  std::string bytes;
  for (const std::string& text : texts) {
    bytes += Bytes<uint32_t>({static_cast<uint32_t>(text.size())}) + text;
  }
  return bytes;
}

// Tensors as JSON text: initializer lists of nlohmann::json take minutes to compile with
// sanitizers.
std::string Input(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& data) {
  return fmt::format(R"({{"name":"{}","datatype":"{}","shape":{},"data":{}}})", name, type, shape,
                     data);
}

std::string BinaryInput(const std::string& name, const std::string& type, const std::string& shape,
                        size_t bytes) {
  return fmt::format(
      R"({{"name":"{}","datatype":"{}","shape":{},"parameters":{{"binary_data_size":{}}}}})", name,
      type, shape, bytes);
}

std::string Item() { return Input("item", "INT64", "[2]", "[4,5]"); }

// A body with these tensors, and `rest` of the object: ",...".
std::string Body(const std::vector<std::string>& inputs, const std::string& rest = "") {
  return fmt::format(R"({{"inputs":[{}]{}}})", fmt::join(inputs, ","), rest);
}

absl::StatusOr<InferRequest> Parse(const std::string& body) {
  return ParseInferRequest(body, std::nullopt, kLimits, kNow);
}

absl::StatusOr<InferRequest> ParseBinary(const std::string& text, const std::string& binary) {
  return ParseInferRequest(text + binary, text.size(), kLimits, kNow);
}

std::string RefusalOf(const absl::StatusOr<InferRequest>& request) {
  EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << request.status();
  return std::string(request.status().message());
}

// The refusal of two candidates with another input.
std::string Refusal(const std::string& input) { return RefusalOf(Parse(Body({Item(), input}))); }

void CheckFull(const RankRequest& rank) {
  EXPECT_EQ(rank.user, 17u);
  EXPECT_EQ(rank.timestamp, 1490000000);
  ASSERT_EQ(rank.history.size(), 3u);
  EXPECT_EQ(rank.history[2].item, 8u);
  EXPECT_EQ(rank.history[2].timestamp, 30);
  EXPECT_THAT(rank.features, UnorderedElementsAre(Pair("ctx_display", "A")));
  EXPECT_THAT(rank.numerics, UnorderedElementsAre(Pair("num_hour", 13)));
  ASSERT_EQ(rank.candidates.size(), 2u);
  EXPECT_EQ(rank.candidates[0].item, 12u);
  EXPECT_EQ(rank.candidates[0].listed_at, 1480000000);
  EXPECT_EQ(rank.candidates[0].prior_count, 0);
  EXPECT_TRUE(rank.candidates[0].vectors.empty());
  EXPECT_TRUE(rank.candidates[0].features.empty());
  EXPECT_EQ(rank.candidates[1].item, std::nullopt);
  EXPECT_EQ(rank.candidates[1].listed_at, std::nullopt);
  EXPECT_EQ(rank.candidates[1].prior_count, std::nullopt);
  EXPECT_THAT(rank.candidates[1].vectors,
              UnorderedElementsAre(Pair("text", ElementsAre(0.5F, 0, -2.0F))));
  EXPECT_THAT(rank.candidates[1].features, UnorderedElementsAre(Pair("feat_brand", "xyz")));
  EXPECT_THAT(rank.candidates[1].numerics, UnorderedElementsAre(Pair("num_price", 2.5)));
}

TEST(InferenceProtocol, EveryTensorArrivesFromJson) {
  const std::string body = Body(
      {Input("feat_brand", "BYTES", "[2]", R"(["", "xyz"])"), Input("user", "INT64", "[1]", "[17]"),
       Input("timestamp", "INT64", "[1]", "[1490000000]"),
       Input("item", "INT64", "[2]", "[12, -1]"),
       Input("history_item", "INT64", "[3]", "[6, 7, 8]"),
       Input("history_timestamp", "INT64", "[3]", "[10, 20, 30]"),
       Input("listed_at", "INT64", "[2]", "[1480000000, -1]"),
       Input("prior_count", "INT64", "[2]", "[0, -1]"),
       Input("ctx_display", "BYTES", "[1]", R"(["A"])"), Input("num_hour", "FP32", "[1]", "[13]"),
       Input("num_price", "FP32", "[2]", "[1.25, 2.5]"),
       // Nested, as numpy's tolist() makes it.
       Input("vector.text", "FP32", "[2, 3]", "[[0, 0, 0], [0.5, 0, -2]]")},
      R"(,"id":"a-1","parameters":{"sequence_id":3,"anything":"goes"})");
  const auto request = Parse(body);
  ASSERT_TRUE(request.ok()) << request.status();
  CheckFull(request->rank);
  EXPECT_EQ(request->id, "a-1");
  ASSERT_EQ(request->outputs.size(), 3u);
  EXPECT_FALSE(request->outputs[0].binary);
}

TEST(InferenceProtocol, EveryTensorArrivesFromBytes) {
  const std::string binary =
      Bytes<int64_t>({12, -1}) + Bytes<int64_t>({17}) + Bytes<int64_t>({1490000000}) +
      Bytes<int64_t>({6, 7, 8}) + Bytes<int64_t>({10, 20, 30}) + Bytes<int64_t>({1480000000, -1}) +
      Bytes<int64_t>({0, -1}) + Strings({"", "xyz"}) + Strings({"A"}) + Bytes<float>({13}) +
      Bytes<float>({1.25F, 2.5F}) + Bytes<float>({0, 0, 0, 0.5F, 0, -2});
  const std::string text = Body(
      {BinaryInput("item", "INT64", "[2]", 16), BinaryInput("user", "INT64", "[1]", 8),
       BinaryInput("timestamp", "INT64", "[1]", 8), BinaryInput("history_item", "INT64", "[3]", 24),
       BinaryInput("history_timestamp", "INT64", "[3]", 24),
       BinaryInput("listed_at", "INT64", "[2]", 16), BinaryInput("prior_count", "INT64", "[2]", 16),
       BinaryInput("feat_brand", "BYTES", "[2]", 11), BinaryInput("ctx_display", "BYTES", "[1]", 5),
       BinaryInput("num_hour", "FP32", "[1]", 4), BinaryInput("num_price", "FP32", "[2]", 8),
       BinaryInput("vector.text", "FP32", "[2, 3]", 24)},
      R"(,"parameters":{"binary_data_output":true})");
  const auto request = ParseBinary(text, binary);
  ASSERT_TRUE(request.ok()) << request.status();
  CheckFull(request->rank);
  EXPECT_TRUE(request->outputs[0].binary && request->outputs[2].binary);
}

TEST(InferenceProtocol, OnlyTheItemsMustBeThere) {
  const auto request = Parse(Body({Item()}));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->rank.user, std::nullopt);
  EXPECT_EQ(request->rank.timestamp, kNow);
  EXPECT_EQ(Parse(Body({Item(), Input("user", "INT64", "[1]", "[-1]")}))->rank.user, std::nullopt);
  EXPECT_THAT(RefusalOf(Parse(Body({}))), HasSubstr("item is missing"));
  EXPECT_EQ(RefusalOf(Parse("{}")), "inputs: missing");
}

TEST(InferenceProtocol, AFeatureOfOneIsOfAllCandidates) {
  const auto request = Parse(Body({Item(), Input("feat_brand", "BYTES", "[1]", R"(["x"])")}));
  ASSERT_TRUE(request.ok()) << request.status();
  for (const Candidate& candidate : request->rank.candidates) {
    EXPECT_THAT(candidate.features, UnorderedElementsAre(Pair("feat_brand", "x")));
  }
}

TEST(InferenceProtocol, RefusalsNameTheTensor) {
  EXPECT_EQ(Refusal(Input("user", "INT32", "[1]", "[1]")),
            "inputs[1] (user): datatype: INT32, must be INT64, FP32 or BYTES");
  EXPECT_EQ(Refusal(Input("user", "FP32", "[1]", "[1]")),
            "inputs[1] (user): datatype FP32, must be INT64");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[2]", "[1, 2]")),
            "inputs[1] (user): shape [2], must be [1]");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[1]", "[-2]")),
            "inputs[1] (user): element 0 is -2, must be >= -1");
  EXPECT_EQ(Refusal(Input("timestamp", "INT64", "[1]", "[-1]")),
            "inputs[1] (timestamp): element 0 is -1, must be >= 0");
  EXPECT_EQ(Refusal(Input("listed_at", "INT64", "[3]", "[1, 2, 3]")),
            "inputs[1] (listed_at): shape [3], must be [2]");
  EXPECT_EQ(Refusal(Input("num_a", "FP32", "[3]", "[1, 2, 3]")),
            "inputs[1] (num_a): shape [3], must be [2] or [1]");
  EXPECT_EQ(Refusal(Input("vector.text", "FP32", "[3, 2]", "[1, 2, 3, 4, 5, 6]")),
            "inputs[1] (vector.text): shape [3, 2], must be [2, 2]");
  EXPECT_EQ(Refusal(Input("vector.text", "FP32", "[2]", "[1, 2]")),
            "inputs[1] (vector.text): one size in its shape, must be [C, dim]");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[1]", "[1.5]")),
            "inputs[1] (user): data[0]: 1.5, must be an integer (int64)");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[1]", "[9223372036854775808]")),
            "inputs[1] (user): data[0]: 9223372036854775808, must be an integer (int64)");
  EXPECT_EQ(Refusal(Input("num_a", "FP32", "[2]", "[1, 1e39]")),
            "inputs[1] (num_a): data[1]: 1e+39, must be a number that float32 can hold");
  EXPECT_EQ(Refusal(Input("feat_a", "BYTES", "[2]", R"(["x", 1])")),
            "inputs[1] (feat_a): data[1]: 1, must be a string");
  EXPECT_EQ(Refusal(Input("num_a", "FP32", "[2]", "[1, 2, 3]")),
            "inputs[1] (num_a): 3 values, its shape [2] takes 2");
  EXPECT_EQ(Refusal(Input("itm", "INT64", "[2]", "[1, 2]")),
            "inputs[1] (itm): no such input; nearest is item");
  EXPECT_EQ(Refusal(Item()), "inputs[1] (item): a second tensor of this name");
  EXPECT_EQ(Refusal(Input("history_item", "INT64", "[1]", "[1]")),
            "inputs[1] (history_item): history_item and history_timestamp come together or not at "
            "all");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[-1]", "[1]")),
            "inputs[1] (user): shape: -1, must be integers >= 0");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[1, 1, 1]", "[1]")),
            "inputs[1] (user): shape: 3 sizes, must be 1 or 2");
  EXPECT_EQ(Refusal(Input("user", "INT64", "[2147483648,2147483648]", "[1]")),
            "inputs[1] (user): shape: more than 2147483648 elements");
  EXPECT_EQ(Refusal(R"({"name":"user","datatype":"INT64","shape":[1]})"),
            "inputs[1] (user): it must have either data or parameters.binary_data_size");
  EXPECT_EQ(Refusal(R"({"name":"user","datatyp":"INT64","shape":[1]})"),
            "inputs[1].datatyp: no such key; nearest is datatype");
  EXPECT_THAT(Refusal(R"({"name":"user","datatype":"INT64","shape":[1],"data":[1],"parameters":)"
                      R"({"shared_memory_region":"x"}})"),
              HasSubstr("shared memory is not offered"));
}

TEST(InferenceProtocol, SizesAreLimited) {
  const auto ones = [](const char* name, size_t count) {
    return Input(name, "INT64", fmt::format("[{}]", count),
                 fmt::format("[{}]", fmt::join(std::vector<int>(count, 1), ",")));
  };
  const auto items = [&](size_t candidates) { return Body({ones("item", candidates)}); };
  EXPECT_TRUE(Parse(items(100)).ok());
  EXPECT_THAT(RefusalOf(Parse(items(101))), HasSubstr("candidates: 101"));
  EXPECT_THAT(RefusalOf(Parse(items(10'000))), HasSubstr("candidates: 10000"));
  EXPECT_THAT(RefusalOf(Parse(items(0))), HasSubstr("candidates: none"));
  EXPECT_THAT(
      RefusalOf(Parse(Body({Item(), ones("history_item", 51), ones("history_timestamp", 51)}))),
      HasSubstr("history: 51"));
}

TEST(InferenceProtocol, BinaryDataMustFitExactly) {
  const auto refusal = [](size_t claimed, const std::string& binary, const char* type = "INT64") {
    return RefusalOf(ParseBinary(Body({BinaryInput("item", type, "[2]", claimed)}), binary));
  };
  const std::string two = Bytes<int64_t>({1, 2});
  EXPECT_EQ(refusal(16, two.substr(1)),
            "inputs[0] (item): binary_data_size 16, 15 bytes are left behind the JSON");
  EXPECT_EQ(refusal(15, two),
            "inputs[0] (item): binary_data_size 15, its shape [2] of INT64 takes 16");
  EXPECT_EQ(refusal(16, two + "x"),
            "1 bytes behind the JSON belong to no input: no binary_data_size covers them");
  EXPECT_EQ(refusal(6, Strings({"ab"}), "BYTES"),
            "inputs[0] (item): its binary data ends within element 1");
  EXPECT_EQ(refusal(8, Bytes<uint32_t>({0, 9}), "BYTES"),
            "inputs[0] (item): element 1 claims 9 bytes, 0 are left");
  EXPECT_EQ(refusal(10, Strings({"", "", ""}).substr(0, 10), "BYTES"),
            "inputs[0] (item): 2 bytes are left behind its 2 elements");
  EXPECT_EQ(refusal(8, Bytes<float>({1, NAN}), "FP32"), "inputs[0] (item): a value is not finite");
  EXPECT_EQ(refusal(8, Bytes<float>({1, -INFINITY}), "FP32"),
            "inputs[0] (item): a value is not finite");
  EXPECT_EQ(RefusalOf(ParseInferRequest("{}", 3, kLimits, kNow)),
            "Inference-Header-Content-Length: 3, the body has 2 bytes");
}

TEST(InferenceProtocol, OutputsAreChosen) {
  const auto with = [](const std::string& outputs) {
    return Parse(
        Body({Item()}, R"(,"parameters":{"binary_data_output":true},"outputs":)" + outputs));
  };
  const auto request =
      with(R"([{"name":"p_ctcvr"}, {"name":"p_ctr","parameters":{"binary_data":false,"more":1}}])");
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->outputs.size(), 2u);
  EXPECT_EQ(request->outputs[0].name, "p_ctcvr");
  EXPECT_TRUE(request->outputs[0].binary);
  EXPECT_EQ(request->outputs[1].name, "p_ctr");
  EXPECT_FALSE(request->outputs[1].binary);
  EXPECT_EQ(with("[]")->outputs.size(), 3u);

  EXPECT_EQ(RefusalOf(with(R"([{"name":"p_click"}])")),
            "outputs[0]: p_click: no such output; nearest is p_ctr");
  EXPECT_EQ(RefusalOf(with(R"([{"name":"p_ctr"},{"name":"p_ctr"}])")),
            "outputs[1]: p_ctr is asked for twice");
  EXPECT_EQ(RefusalOf(with(R"([{"nam":"p_ctr"}])")),
            "outputs[0].nam: no such key; nearest is name");
  EXPECT_EQ(RefusalOf(with(R"([{"name":"p_ctr","parameters":{"binary_data":1}}])")),
            "outputs[0].parameters.binary_data: 1, must be true or false");
  EXPECT_THAT(RefusalOf(with(R"([{"name":"p_ctr","parameters":{"classification":2}}])")),
              HasSubstr("classification: not offered"));
}

TEST(InferenceProtocol, AnswersAreJsonOrBytes) {
  const RankScores scores{.p_ctr = {0.1F, 0.2F}, .p_cvr = {0.3F, 0.4F}, .p_ctcvr = {0.03F, 0.08F}};
  InferRequest request;
  request.id = "x\"y";
  request.outputs = {{"p_ctcvr", true}, {"p_cvr", false}, {"p_ctr", true}};
  const InferResponse response = MakeInferResponse(scores, request, "000000000007");
  ASSERT_TRUE(response.json_bytes.has_value());
  const json document = json::parse(response.body.substr(0, *response.json_bytes));
  EXPECT_EQ(document["model_name"], "savior");
  EXPECT_EQ(document["model_version"], "000000000007");
  EXPECT_EQ(document["id"], "x\"y");
  EXPECT_EQ(document["outputs"][0]["name"], "p_ctcvr");
  EXPECT_EQ(document["outputs"][0]["shape"], json({2}));
  EXPECT_EQ(document["outputs"][0]["datatype"], "FP32");
  EXPECT_EQ(document["outputs"][0]["parameters"]["binary_data_size"], 8);
  EXPECT_EQ(document["outputs"][1]["data"].get<std::vector<float>>(), scores.p_cvr);
  EXPECT_EQ(response.body.substr(*response.json_bytes),
            Bytes<float>(scores.p_ctcvr) + Bytes<float>(scores.p_ctr));

  request.id.clear();
  for (auto& output : request.outputs) output.binary = false;
  const InferResponse plain = MakeInferResponse(scores, request, "7");
  EXPECT_FALSE(plain.json_bytes.has_value());
  EXPECT_FALSE(json::parse(plain.body).contains("id"));
}

TEST(InferenceProtocol, MetadataNamesWhatTheModelTakes) {
  ModelCard card;
  card.version = "000000000007";
  card.item_features = {"feat_brand"};
  card.context_features = {"ctx_display"};
  card.item_numerics = {"num_price"};
  card.modalities = {{"text", 384}};
  const json metadata = json::parse(ModelMetadata(card));
  EXPECT_EQ(metadata["name"], "savior");
  EXPECT_EQ(metadata["versions"], json({"000000000007"}));
  std::vector<std::string> inputs;
  for (const json& input : metadata["inputs"]) inputs.push_back(input["name"]);
  EXPECT_THAT(inputs,
              UnorderedElementsAre("item", "user", "timestamp", "history_item", "history_timestamp",
                                   "listed_at", "prior_count", "feat_brand", "ctx_display",
                                   "num_price", "vector.text"));
  EXPECT_EQ(metadata["inputs"].back(),
            json({{"name", "vector.text"}, {"datatype", "FP32"}, {"shape", {-1, 384}}}));
  EXPECT_EQ(metadata["outputs"].size(), 3u);
  EXPECT_EQ(json::parse(ServerMetadata("0.1.0"))["extensions"], json({"binary_tensor_data"}));
}

}  // namespace
}  // namespace savior
