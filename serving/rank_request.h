// What is asked of a scorer, and what it answers: a user, a history, candidates -> probabilities.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace savior {

// Bounds that keep one request from taking a server's memory.
struct RankLimits {
  int64_t candidates = 1000;
  int64_t history = 10'000;  // behaviours sent; the model looks at its newest data.max_history
};

struct PastBehaviour {
  uint64_t item = 0;      // id
  int64_t timestamp = 0;  // unix seconds
};

// One item to rank. What is not given comes from the bundle's catalogue, if it knows the item.
struct Candidate {
  // None: an item without an id. An id that the bundle does not know, or none, is a cold item: its
  // id embedding reads as a new item's, and its content comes from `vectors`.
  std::optional<uint64_t> item = {};
  // Raw vectors by modality ("text"), any length but zero; they override the catalogue's.
  std::map<std::string, std::vector<float>> vectors = {};
  std::optional<int64_t> listed_at = {};    // unix seconds; unknown: the time of the request
  std::optional<int64_t> prior_count = {};  // behaviours with it so far; unknown: 0
  // By the schema's names: "feat_*" of the item and "ctx_*" of the impression.
  std::map<std::string, std::string> features = {};
  std::map<std::string, double> numerics = {};  // "num_*" of both
};

struct RankRequest {
  std::optional<uint64_t> user = {};        // none, or one that is not known: a new user
  int64_t timestamp = 0;                    // unix seconds
  std::vector<PastBehaviour> history = {};  // any order
  std::vector<Candidate> candidates = {};
  // Of all candidates that do not say otherwise: "ctx_*" and "num_*".
  std::map<std::string, std::string> features = {};
  std::map<std::string, double> numerics = {};
};

// Per candidate, in the request's order.
struct RankScores {
  std::vector<float> p_ctr, p_cvr, p_ctcvr;
};

}  // namespace savior
