// JSON <-> RankRequest and RankScores: the bodies of POST /v1/rank.
//
//   {"user": 17, "timestamp": 1490000000,
//    "history": [{"item": 5, "timestamp": 1489990000}, ...],
//    "features": {"ctx_display": "A"}, "numerics": {"num_hour": 13},
//    "candidates": [12, {"item": 13, "features": {"ctx_display": "B"}},
//                   {"vectors": {"text": [0.25, ...]}, "listed_at": 1489000000, "prior_count": 0,
//                    "features": {"feat_brand": "x"}, "numerics": {"num_price": 2.5}}]}
//
// Only "candidates" must be there. A bare integer is a candidate of that id. Ids are integers from
// 0 to 2^64 - 1, times unix seconds >= 0, counts >= 0. Names of features, numerics and modalities
// are the scorer's to check. Nothing is guessed: null, an unknown key (the nearest is named), a key
// twice, a number as a string are refused.
//
//   {"model": "savior", "version": "000000002578",
//    "p_ctr": [...], "p_cvr": [...], "p_ctcvr": [...]}     in the order of the candidates
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"
#include "serving/rank_request.h"

namespace savior {

// kInvalidArgument says what and where: "candidates[3].listed_at: a string, must be an integer
// (unix seconds)"; of several mistakes what is no JSON comes first, then the lists' lengths, then
// the first in the body. `now` (unix seconds) is the request's time if it names none. There is at
// least one candidate in the result, and no more than `limits`.
[[nodiscard]] absl::StatusOr<RankRequest> ParseRankRequest(std::string_view body,
                                                           const RankLimits& limits, int64_t now);

// That the request holds 1 to `limits` candidates and at most `limits` behaviours.
[[nodiscard]] absl::Status CheckSizes(size_t candidates, size_t behaviours,
                                      const RankLimits& limits);

// Every float in the fewest digits that read back as the same float32. Scores must be finite.
std::string RankScoresJson(const RankScores& scores, std::string_view version);

}  // namespace savior
