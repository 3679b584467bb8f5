// The numeric inputs of the ranker: the same for a step of training and for a request.
//
//   [age of the item in days, behaviours with it on earlier days, length of the history,
//    hours since its newest behaviour, numerics of the item, numerics of the impression]
//
// each squashed.
#pragma once

#include <cmath>
#include <cstdint>

namespace savior {

// Compresses counts, ages and whatever numeric features come along; odd, monotone, about [-3, 3].
inline float Squash(double x) {
  return static_cast<float>(std::copysign(std::log1p(std::abs(x)), x) * 0.25);
}

inline constexpr int64_t kOwnNumerics = 4;  // before the data's

// Of one candidate; times in unix seconds.
struct CandidateFacts {
  int64_t now = 0;
  int64_t listed_at = 0;
  int64_t prior_count = 0;
  int64_t history = 0;       // positions
  int64_t last_history = 0;  // time of the newest; not looked at if there is none
};

// Writes kOwnNumerics values.
inline void WriteOwnNumerics(const CandidateFacts& facts, float* out) {
  const auto since = static_cast<double>(facts.history > 0 ? facts.now - facts.last_history : 0);
  out[0] = Squash(static_cast<double>(facts.now - facts.listed_at) / 86400.0);
  out[1] = Squash(static_cast<double>(facts.prior_count));
  out[2] = Squash(static_cast<double>(facts.history));
  out[3] = Squash(since / 3600.0);
}

}  // namespace savior
