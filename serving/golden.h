// Golden requests: real ones, with the live model's scores. What a bundle must reproduce.
//
//   {"requests": [{"request": <body of /v1/rank>, "p_ctr": [...], "p_ctcvr": [...],
//                  "clicks": [0, 1, ...]}, ...]}
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "serving/rank_request.h"
#include "serving/scorer.h"

namespace savior {

struct GoldenRequest {
  RankRequest request;
  std::vector<float> p_ctr, p_ctcvr;  // of the live model, per candidate
  std::vector<float> clicks;          // what happened, 0 or 1
};

std::string GoldenJson(const std::vector<GoldenRequest>& requests);
// kDataLoss: not what GoldenJson wrote.
[[nodiscard]] absl::StatusOr<std::vector<GoldenRequest>> ParseGolden(const std::string& text);

struct Parity {
  int64_t requests = 0, candidates = 0;
  double max_difference = 0;  // of any probability
  // Of clicks over all candidates; none: one class only.
  std::optional<double> live_auc, auc;
};
// Errors: the scorer's.
[[nodiscard]] absl::StatusOr<Parity> Compare(const Scorer& scorer,
                                             const std::vector<GoldenRequest>& requests);

}  // namespace savior
