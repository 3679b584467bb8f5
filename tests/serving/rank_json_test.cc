#include "serving/rank_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "common/random.h"

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr int64_t kNow = 1'500'000'000;
const RankLimits kLimits{.candidates = 100, .history = 50};

constexpr const char* kFull = R"({
  "user": 17, "timestamp": 1490000000,
  "history": [{"item": 5, "timestamp": 1489990000}, {"timestamp": 7, "item": 18446744073709551615}],
  "features": {"ctx_display": "A"}, "numerics": {"num_hour": 13},
  "candidates": [12, {"item": 13, "features": {"ctx_display": "B"}},
    {"vectors": {"text": [0.25, -1, 1e-3]}, "listed_at": 1489000000, "prior_count": 4,
     "features": {"feat_brand": "x"}, "numerics": {"num_price": 2.5}}]})";

absl::StatusOr<RankRequest> Parse(const std::string& body) {
  return ParseRankRequest(body, kLimits, kNow);
}

std::string Refusal(const std::string& body) {
  const auto request = Parse(body);
  EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << body << ": " << request.status();
  return std::string(request.status().message());
}

// A body whose third candidate is `candidate`.
std::string Third(const std::string& candidate) {
  return R"({"candidates": [1, 2, )" + candidate + "]}";
}

TEST(RankJson, EveryFieldArrivesWhereItBelongs) {
  const auto request = Parse(kFull);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->user, 17u);
  EXPECT_EQ(request->timestamp, 1490000000);
  ASSERT_EQ(request->history.size(), 2u);
  EXPECT_EQ(request->history[0].item, 5u);
  EXPECT_EQ(request->history[0].timestamp, 1489990000);
  EXPECT_EQ(request->history[1].item, std::numeric_limits<uint64_t>::max());
  EXPECT_THAT(request->features, UnorderedElementsAre(Pair("ctx_display", "A")));
  EXPECT_THAT(request->numerics, UnorderedElementsAre(Pair("num_hour", 13)));
  ASSERT_EQ(request->candidates.size(), 3u);
  EXPECT_EQ(request->candidates[0].item, 12u);
  EXPECT_EQ(request->candidates[1].item, 13u);
  EXPECT_THAT(request->candidates[1].features, UnorderedElementsAre(Pair("ctx_display", "B")));
  const Candidate& cold = request->candidates[2];
  EXPECT_EQ(cold.item, std::nullopt);
  EXPECT_THAT(cold.vectors, UnorderedElementsAre(Pair("text", ElementsAre(0.25F, -1.0F, 1e-3F))));
  EXPECT_EQ(cold.listed_at, 1489000000);
  EXPECT_EQ(cold.prior_count, 4);
  EXPECT_THAT(cold.features, UnorderedElementsAre(Pair("feat_brand", "x")));
  EXPECT_THAT(cold.numerics, UnorderedElementsAre(Pair("num_price", 2.5)));
}

TEST(RankJson, WhatIsNotGivenIsNotMadeUp) {
  const auto request = Parse(R"({"candidates": [{}]})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->user, std::nullopt);
  EXPECT_EQ(request->timestamp, kNow);
  EXPECT_THAT(request->history, IsEmpty());
  ASSERT_EQ(request->candidates.size(), 1u);
  EXPECT_EQ(request->candidates[0].item, std::nullopt);
  EXPECT_EQ(request->candidates[0].listed_at, std::nullopt);
  EXPECT_EQ(request->candidates[0].prior_count, std::nullopt);
}

TEST(RankJson, RefusalsSayWhatAndWhere) {
  EXPECT_EQ(Refusal(Third(R"({"listed_at": "2017"})")),
            "candidates[2].listed_at: a string, must be an integer (unix seconds)");
  EXPECT_EQ(Refusal(Third(R"({"prior_count": -1})")),
            "candidates[2].prior_count: -1, must be an integer >= 0");
  EXPECT_EQ(Refusal(Third("-3")),
            "candidates[2]: -3, must be an integer >= 0 (an id) or an object");
  EXPECT_EQ(Refusal(Third("null")),
            "candidates[2]: null, must be an integer >= 0 (an id) or an object");
  EXPECT_EQ(Refusal(Third(R"({"item": 1.5})")),
            "candidates[2].item: 1.5, must be an integer >= 0 (an id)");
  EXPECT_EQ(Refusal(Third(R"({"vectors": [1, 2]})")),
            "candidates[2].vectors: a list, must be an object");
  EXPECT_EQ(Refusal(Third(R"({"vectors": {"text": [1, "2"]}})")),
            "candidates[2].vectors.text[1]: a string, must be a number that float32 can hold");
  EXPECT_EQ(Refusal(Third(R"({"vectors": {"text": [1, 1e39]}})")),
            "candidates[2].vectors.text[1]: 1e+39, must be a number that float32 can hold");
  EXPECT_EQ(Refusal(Third(R"({"vectors": {"text": 1}})")),
            "candidates[2].vectors.text: 1, must be a list of numbers");
  EXPECT_EQ(Refusal(Third(R"({"features": {"feat_brand": 3}})")),
            "candidates[2].features.feat_brand: 3, must be a string");
  EXPECT_EQ(Refusal(Third(R"({"numerics": {"num_price": true}})")),
            "candidates[2].numerics.num_price: true, must be a number");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "user": "17"})"),
            "user: a string, must be an integer >= 0 (an id)");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "timestamp": 9223372036854775808})"),
            "timestamp: 9223372036854775808, must be an integer (unix seconds) below 2^63");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "history": [{"item": 5}]})"),
            "history[0].timestamp: missing");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "history": [5]})"), "history[0]: 5, must be an object");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "history": {}})"),
            R"(history: an object, must be a list of objects {"item", "timestamp"})");
  EXPECT_EQ(Refusal(R"({"candidates": {}})"),
            "candidates: an object, must be a list of ids or objects");
  EXPECT_EQ(Refusal("{}"), "candidates: missing, must be a list of ids or objects");
  EXPECT_EQ(Refusal("[]"), "the body: a list, must be a JSON object");
  EXPECT_EQ(Refusal(""), "the body is empty, must be a JSON object");
}

TEST(RankJson, AnUnknownKeyNamesTheNearest) {
  EXPECT_EQ(Refusal(R"({"candidate": [1]})"), "candidate: no such key; nearest is candidates");
  EXPECT_EQ(Refusal(Third(R"({"prior_cuont": 1})")),
            "candidates[2].prior_cuont: no such key; nearest is prior_count");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "history": [{"itm": 5, "timestamp": 1}]})"),
            "history[0].itm: no such key; nearest is item");
  // The message stays short whatever was sent.
  EXPECT_LT(Refusal("{\"" + std::string(100'000, 'x') + "\": 1}").size(), 200u);
}

TEST(RankJson, NotJsonIsRefusedWithItsPlace) {
  EXPECT_THAT(Refusal(R"({"candidates": [1,]})"), HasSubstr("the body is not JSON, at byte 19"));
  for (const char* number :
       {"NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "+1", "0x1"}) {
    EXPECT_THAT(Refusal(Third(number)), HasSubstr("the body is not JSON")) << number;
  }
  for (const char* text : {"{", "}", "{\"candidates\": [1]} {}", "{\"candidates\": [1]}x", "\xff",
                           "{\"candidates\": [1], \"user\": \"\xc3\x28\"}", "{'candidates': [1]}",
                           "{\"candidates\": [1] // all\n}"}) {
    EXPECT_THAT(Refusal(text), HasSubstr("the body is not JSON")) << text;
  }
  EXPECT_LT(Refusal("{\"candidates\": " + std::string(1 << 20, 'x')).size(), 400u);
}

TEST(RankJson, OfSeveralMistakesTheWholeBodysComeFirst) {
  EXPECT_THAT(Refusal(R"({"candidates": [-1], "user": 01})"), HasSubstr("the body is not JSON"));
  std::string many = R"({"candidates": ["x")";
  for (int i = 0; i < 100; ++i) many += ", 1";
  EXPECT_THAT(Refusal(many + "]}"), HasSubstr("candidates: 101 of them"));
  EXPECT_EQ(Refusal(R"({"user": -1, "candidates": ["x"]})"),
            "user: -1, must be an integer >= 0 (an id)");
  EXPECT_EQ(Refusal(std::string("{\"candidates\": [1]}\0 x", 23)),
            "the body is not JSON, at byte 20: a zero byte");
}

TEST(RankJson, AKeyTwiceIsRefused) {
  EXPECT_EQ(Refusal(R"({"candidates": [1], "user": 1, "user": 1})"),
            R"(the key "user" is twice in one object)");
  EXPECT_EQ(Refusal(Third(R"({"features": {"feat_a": "x", "feat_a": "y"}})")),
            R"(the key "feat_a" is twice in one object)");
  EXPECT_EQ(Refusal(Third(R"({"numerics": {"a": 1, "b": 2, "\u0061": 3}})")),
            R"(the key "a" is twice in one object)");
  EXPECT_EQ(Refusal(R"({"candidates": [1], "history": [{"item": 1, "item": 1}]})"),
            R"(the key "item" is twice in one object)");
}

TEST(RankJson, BombsAreRefusedBeforeTheyGrow) {
  EXPECT_EQ(Refusal(std::string(1'000'000, '[')), "lists and objects are nested more than 8 deep");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_EQ(Refusal(objects), "lists and objects are nested more than 8 deep");
  std::string lists = R"({"candidates": [)";
  for (int i = 0; i < 200'000; ++i) lists += "[],";
  EXPECT_EQ(Refusal(lists + "1]}"), "the body has more than 200000 lists and objects");
  std::string values = R"({"candidates": [)";
  for (int i = 0; i < 4'000'000; ++i) values += "1,";
  EXPECT_EQ(Refusal(values + "1]}"), "the body has more than 4000000 values");
}

TEST(RankJson, LimitsHoldToTheLastCandidate) {
  const auto bodies = [](int candidates, int behaviours) {
    nlohmann::json body;
    body["candidates"] = std::vector<int>(static_cast<size_t>(candidates), 3);
    body["history"] = std::vector<nlohmann::json>(static_cast<size_t>(behaviours),
                                                  {{"item", 1}, {"timestamp", 2}});
    return body.dump();
  };
  EXPECT_TRUE(Parse(bodies(100, 50)).ok());
  EXPECT_TRUE(Parse(bodies(1, 0)).ok());
  EXPECT_THAT(Refusal(bodies(101, 0)), HasSubstr("candidates: 101 of them, this server takes 100"));
  EXPECT_THAT(Refusal(bodies(10'000, 0)), HasSubstr("candidates: 10000"));
  EXPECT_THAT(Refusal(bodies(1, 51)), HasSubstr("history: 51 behaviours, this server takes 50"));
  EXPECT_THAT(Refusal(bodies(0, 0)), HasSubstr("candidates: none"));
}

TEST(RankJson, ScoresReadBackAsTheSameFloats) {
  RankScores scores;
  scores.p_ctr = {0.1F, 1.0F, 0.0F};
  scores.p_cvr = {1e-7F, 0.33333334F, 0.99999994F};
  scores.p_ctcvr = {1e-38F, 1e-8F, 0.5F};
  const auto json = nlohmann::json::parse(RankScoresJson(scores, "000000002578"));
  EXPECT_EQ(json.at("model"), "savior");
  EXPECT_EQ(json.at("version"), "000000002578");
  EXPECT_EQ(json.at("p_ctr").get<std::vector<float>>(), scores.p_ctr);
  EXPECT_EQ(json.at("p_cvr").get<std::vector<float>>(), scores.p_cvr);
  EXPECT_EQ(json.at("p_ctcvr").get<std::vector<float>>(), scores.p_ctcvr);
}

// Whatever comes out is within the contract, and whatever is refused is the client's fault.
TEST(RankJson, MutatedBodiesAreTakenOrRefused) {
  constexpr uint64_t kSeed = 20'261'126;
  Random random(kSeed);
  int taken = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string body = kFull;
    const uint64_t edits = 1 + random.Below(4);
    for (uint64_t edit = 0; edit < edits; ++edit) {
      const size_t at = random.Below(body.size());
      switch (random.Below(4)) {
        case 0:
          body[at] = static_cast<char>(random.Below(256));
          break;
        case 1:
          body.erase(at, 1 + random.Below(20));
          break;
        case 2:
          body.insert(at, body.substr(random.Below(body.size()), random.Below(30)));
          break;
        default:
          body[at] = R"({}[]",:-0e.)"[random.Below(11)];
      }
    }
    const auto request = Parse(body);
    if (request.ok()) {
      ++taken;
      EXPECT_FALSE(request->candidates.empty()) << "seed " << kSeed << ": " << body;
      EXPECT_GE(request->timestamp, 0) << "seed " << kSeed << ": " << body;
    } else {
      EXPECT_TRUE(absl::IsInvalidArgument(request.status())) << "seed " << kSeed << ": " << body;
      EXPECT_LT(request.status().message().size(), 1000u);
    }
  }
  EXPECT_GT(taken, 10);  // else nothing behind the parser was reached
}

}  // namespace
}  // namespace savior
