#include "serving/rank_json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "serving/json_text.h"

namespace savior {
namespace {

using nlohmann::json;

constexpr std::string_view kId = "an integer >= 0 (an id)";
constexpr std::string_view kTime = "an integer (unix seconds)";
constexpr std::string_view kCount = "an integer >= 0";

absl::StatusOr<std::map<std::string, std::string>> ReadFeatures(const json& value,
                                                                const std::string& path) {
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, path, {}));
  std::map<std::string, std::string> features;
  for (const auto& [name, text] : value.items()) {
    SAVIOR_ASSIGN_OR_RETURN(features[name], ReadString(text, JsonPath(path, name)));
  }
  return features;
}

absl::StatusOr<std::map<std::string, double>> ReadNumerics(const json& value,
                                                           const std::string& path) {
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, path, {}));
  std::map<std::string, double> numerics;
  for (const auto& [name, number] : value.items()) {
    SAVIOR_ASSIGN_OR_RETURN(numerics[name], ReadNumber(number, JsonPath(path, name)));
  }
  return numerics;
}

absl::StatusOr<std::map<std::string, std::vector<float>>> ReadVectors(const json& value,
                                                                      const std::string& path) {
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, path, {}));
  std::map<std::string, std::vector<float>> vectors;
  for (const auto& [modality, numbers] : value.items()) {
    SAVIOR_ASSIGN_OR_RETURN(vectors[modality], ReadFloats(numbers, JsonPath(path, modality)));
  }
  return vectors;
}

absl::StatusOr<Candidate> ReadCandidate(const json& value, const std::string& path) {
  static const std::vector<std::string> known = {"item",        "vectors",  "listed_at",
                                                 "prior_count", "features", "numerics"};
  Candidate candidate;
  if (!value.is_object()) {
    SAVIOR_ASSIGN_OR_RETURN(candidate.item,
                            ReadUnsigned(value, path, "an integer >= 0 (an id) or an object"));
    return candidate;
  }
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, path, known));
  for (const auto& [key, field] : value.items()) {
    const std::string at = JsonPath(path, key);
    if (key == "item") {
      SAVIOR_ASSIGN_OR_RETURN(candidate.item, ReadUnsigned(field, at, kId));
    } else if (key == "vectors") {
      SAVIOR_ASSIGN_OR_RETURN(candidate.vectors, ReadVectors(field, at));
    } else if (key == "listed_at") {
      SAVIOR_ASSIGN_OR_RETURN(candidate.listed_at, ReadCount(field, at, kTime));
    } else if (key == "prior_count") {
      SAVIOR_ASSIGN_OR_RETURN(candidate.prior_count, ReadCount(field, at, kCount));
    } else if (key == "features") {
      SAVIOR_ASSIGN_OR_RETURN(candidate.features, ReadFeatures(field, at));
    } else {
      SAVIOR_ASSIGN_OR_RETURN(candidate.numerics, ReadNumerics(field, at));
    }
  }
  return candidate;
}

absl::StatusOr<PastBehaviour> ReadBehaviour(const json& value, const std::string& path) {
  static const std::vector<std::string> known = {"item", "timestamp"};
  SAVIOR_RETURN_IF_ERROR(CheckKeys(value, path, known));
  for (const std::string& key : known) {
    if (!value.contains(key)) {
      return absl::InvalidArgumentError(fmt::format("{}: missing", JsonPath(path, key)));
    }
  }
  PastBehaviour behaviour;
  SAVIOR_ASSIGN_OR_RETURN(behaviour.item, ReadUnsigned(value["item"], JsonPath(path, "item"), kId));
  SAVIOR_ASSIGN_OR_RETURN(behaviour.timestamp,
                          ReadCount(value["timestamp"], JsonPath(path, "timestamp"), kTime));
  return behaviour;
}

absl::Status ReadLists(const json& document, RankRequest& request) {
  if (document.contains("history")) {
    for (const json& value : document["history"]) {
      const std::string path = JsonPath("history", request.history.size());
      SAVIOR_ASSIGN_OR_RETURN(const PastBehaviour behaviour, ReadBehaviour(value, path));
      request.history.push_back(behaviour);
    }
  }
  for (const json& value : document["candidates"]) {
    const std::string path = JsonPath("candidates", request.candidates.size());
    SAVIOR_ASSIGN_OR_RETURN(Candidate candidate, ReadCandidate(value, path));
    request.candidates.push_back(std::move(candidate));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSizes(size_t candidates, size_t behaviours, const RankLimits& limits) {
  if (candidates == 0) {
    return absl::InvalidArgumentError("candidates: none, must be at least one");
  }
  if (candidates > static_cast<size_t>(limits.candidates)) {
    return absl::InvalidArgumentError(
        fmt::format("candidates: {} of them, this server takes {}; send several requests",
                    candidates, limits.candidates));
  }
  if (behaviours > static_cast<size_t>(limits.history)) {
    return absl::InvalidArgumentError(
        fmt::format("history: {} behaviours, this server takes {}; send the newest", behaviours,
                    limits.history));
  }
  return absl::OkStatus();
}

absl::StatusOr<RankRequest> ParseRankRequest(std::string_view body, const RankLimits& limits,
                                             int64_t now) {
  static const std::vector<std::string> known = {"user",     "timestamp", "history",
                                                 "features", "numerics",  "candidates"};
  SAVIOR_ASSIGN_OR_RETURN(const json document, ParseJsonObject(body));
  SAVIOR_RETURN_IF_ERROR(CheckKeys(document, "", known));
  if (!document.contains("candidates")) {
    return absl::InvalidArgumentError("candidates: missing, must be a list of ids or objects");
  }
  SAVIOR_RETURN_IF_ERROR(CheckList(document["candidates"], "candidates", "ids or objects"));
  size_t behaviours = 0;
  if (document.contains("history")) {
    SAVIOR_RETURN_IF_ERROR(
        CheckList(document["history"], "history", "objects {\"item\", \"timestamp\"}"));
    behaviours = document["history"].size();
  }
  // Before anything is copied.
  SAVIOR_RETURN_IF_ERROR(CheckSizes(document["candidates"].size(), behaviours, limits));

  RankRequest request;
  request.timestamp = now;
  if (document.contains("user")) {
    SAVIOR_ASSIGN_OR_RETURN(request.user, ReadUnsigned(document["user"], "user", kId));
  }
  if (document.contains("timestamp")) {
    SAVIOR_ASSIGN_OR_RETURN(request.timestamp,
                            ReadCount(document["timestamp"], "timestamp", kTime));
  }
  if (document.contains("features")) {
    SAVIOR_ASSIGN_OR_RETURN(request.features, ReadFeatures(document["features"], "features"));
  }
  if (document.contains("numerics")) {
    SAVIOR_ASSIGN_OR_RETURN(request.numerics, ReadNumerics(document["numerics"], "numerics"));
  }
  SAVIOR_RETURN_IF_ERROR(ReadLists(document, request));
  return request;
}

std::string RankScoresJson(const RankScores& scores, std::string_view version) {
  return fmt::format(
      R"({{"model":"savior","version":{},"p_ctr":[{}],"p_cvr":[{}],"p_ctcvr":[{}]}})",
      JsonString(version), fmt::join(scores.p_ctr, ","), fmt::join(scores.p_cvr, ","),
      fmt::join(scores.p_ctcvr, ","));
}

}  // namespace savior
