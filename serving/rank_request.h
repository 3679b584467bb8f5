// What is asked of a scorer, and what it answers: a user, a history, candidates -> probabilities.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace savior {

// Values by name, in the order in which they came. For a few: a search looks at all of them.
template <typename T>
class Named {
 public:
  using Entry = std::pair<std::string, T>;

  // Makes what is not there.
  T& operator[](std::string_view name) {
    const auto found = std::ranges::find(entries_, name, &Entry::first);
    return found != entries_.end() ? found->second : Append(name);
  }
  // Null: not there.
  const T* Find(std::string_view name) const {
    const auto found = std::ranges::find(entries_, name, &Entry::first);
    return found == entries_.end() ? nullptr : &found->second;
  }
  // Without looking whether it is there already: the caller does, by HasTwice.
  T& Append(std::string_view name) { return entries_.emplace_back(std::string(name), T{}).second; }
  bool HasTwice() const {
    if (entries_.size() < 2) return false;
    std::vector<std::string_view> names;
    names.reserve(entries_.size());
    for (const Entry& entry : entries_) names.push_back(entry.first);
    std::ranges::sort(names);
    return std::ranges::adjacent_find(names) != names.end();
  }

  bool empty() const { return entries_.empty(); }
  void clear() { entries_.clear(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  // What gtest's matchers ask of a container.
  using value_type = Entry;
  using const_iterator = typename std::vector<Entry>::const_iterator;
  size_t size() const { return entries_.size(); }

 private:
  std::vector<Entry> entries_;
};

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
  Named<std::vector<float>> vectors = {};
  std::optional<int64_t> listed_at = {};    // unix seconds; unknown: the time of the request
  std::optional<int64_t> prior_count = {};  // behaviours with it so far; unknown: 0
  // By the schema's names: "feat_*" of the item and "ctx_*" of the impression.
  Named<std::string> features = {};
  Named<double> numerics = {};  // "num_*" of both
};

struct RankRequest {
  std::optional<uint64_t> user = {};        // none, or one that is not known: a new user
  int64_t timestamp = 0;                    // unix seconds
  std::vector<PastBehaviour> history = {};  // any order
  std::vector<Candidate> candidates = {};
  // Of all candidates that do not say otherwise: "ctx_*" and "num_*".
  Named<std::string> features = {};
  Named<double> numerics = {};
};

// Per candidate, in the request's order.
struct RankScores {
  std::vector<float> p_ctr, p_cvr, p_ctcvr;
};

}  // namespace savior
