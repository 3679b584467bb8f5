#include "serving/golden.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "serving/rank_json.h"
#include "worker/eval/metrics.h"

namespace savior {
namespace {

using Json = nlohmann::ordered_json;

// What was written is not bounded again.
constexpr RankLimits kNoLimits = {.candidates = std::numeric_limits<int64_t>::max(),
                                  .history = std::numeric_limits<int64_t>::max()};

template <typename T>
Json ToJson(const Named<T>& values) {
  Json j = Json::object();
  for (const auto& [name, value] : values) j[name] = value;
  return j;
}

Json ToJson(const Candidate& candidate) {
  Json j = Json::object();
  if (candidate.item) j["item"] = *candidate.item;
  if (!candidate.vectors.empty()) j["vectors"] = ToJson(candidate.vectors);
  if (candidate.listed_at) j["listed_at"] = *candidate.listed_at;
  if (candidate.prior_count) j["prior_count"] = *candidate.prior_count;
  if (!candidate.features.empty()) j["features"] = ToJson(candidate.features);
  if (!candidate.numerics.empty()) j["numerics"] = ToJson(candidate.numerics);
  return j;
}

Json ToJson(const RankRequest& request) {
  Json j = Json::object();
  if (request.user) j["user"] = *request.user;
  j["timestamp"] = request.timestamp;
  j["history"] = Json::array();
  for (const PastBehaviour& past : request.history) {
    j["history"].push_back({{"item", past.item}, {"timestamp", past.timestamp}});
  }
  if (!request.features.empty()) j["features"] = ToJson(request.features);
  if (!request.numerics.empty()) j["numerics"] = ToJson(request.numerics);
  j["candidates"] = Json::array();
  for (const Candidate& candidate : request.candidates)
    j["candidates"].push_back(ToJson(candidate));
  return j;
}

double Difference(const std::vector<float>& expected, const std::vector<float>& found) {
  double difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(double{expected[i]} - double{found[i]}));
  }
  return difference;
}

}  // namespace

std::string GoldenJson(const std::vector<GoldenRequest>& requests) {
  Json j = {{"requests", Json::array()}};
  for (const GoldenRequest& golden : requests) {
    j["requests"].push_back({{"request", ToJson(golden.request)},
                             {"p_ctr", golden.p_ctr},
                             {"p_ctcvr", golden.p_ctcvr},
                             {"clicks", golden.clicks}});
  }
  return j.dump() + "\n";
}

absl::StatusOr<std::vector<GoldenRequest>> ParseGolden(const std::string& text) {
  std::vector<GoldenRequest> requests;
  try {
    const Json j = Json::parse(text);
    for (const Json& entry : j.at("requests")) {
      GoldenRequest& golden = requests.emplace_back();
      const auto request = ParseRankRequest(entry.at("request").dump(), kNoLimits, /*now=*/0);
      if (!request.ok()) return absl::DataLossError(std::string(request.status().message()));
      golden.request = *request;
      golden.p_ctr = entry.at("p_ctr").get<std::vector<float>>();
      golden.p_ctcvr = entry.at("p_ctcvr").get<std::vector<float>>();
      golden.clicks = entry.at("clicks").get<std::vector<float>>();
      const size_t candidates = golden.request.candidates.size();
      if (golden.p_ctr.size() != candidates || golden.p_ctcvr.size() != candidates ||
          golden.clicks.size() != candidates) {
        return absl::DataLossError("golden requests: other numbers of scores than of candidates");
      }
    }
  } catch (const Json::exception& e) {
    return absl::DataLossError(fmt::format("not golden requests: {}", e.what()));
  }
  return requests;
}

absl::StatusOr<Parity> Compare(const Scorer& scorer, const std::vector<GoldenRequest>& requests) {
  Parity parity;
  std::vector<float> live, served, clicks;
  const auto append = [](const std::vector<float>& from, std::vector<float>* to) {
    to->insert(to->end(), from.begin(), from.end());
  };
  for (const GoldenRequest& golden : requests) {
    SAVIOR_ASSIGN_OR_RETURN(const RankScores scores, scorer.Rank(golden.request));
    ++parity.requests;
    parity.candidates += static_cast<int64_t>(golden.p_ctr.size());
    parity.max_difference = std::max({parity.max_difference, Difference(golden.p_ctr, scores.p_ctr),
                                      Difference(golden.p_ctcvr, scores.p_ctcvr)});
    append(golden.p_ctr, &live);
    append(scores.p_ctr, &served);
    append(golden.clicks, &clicks);
  }
  parity.live_auc = Auc(live, clicks);
  parity.auc = Auc(served, clicks);
  return parity;
}

}  // namespace savior
