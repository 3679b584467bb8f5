// The Open Inference Protocol v2 as KServe and Triton speak it over HTTP: what is asked of the
// model "savior", and its metadata. Pure functions; serving/infer_tensor.h has the encoding of
// tensors.
//
// Inputs (C candidates, T behaviours):
//
//   item               INT64 [C]        id; -1: an item without one. The only input that must be
//   there user               INT64 [1]        id; -1 or absent: a new user timestamp          INT64
//   [1]        unix seconds; absent: now history_item       INT64 [T]        with
//   history_timestamp; both absent: no history history_timestamp  INT64 [T]        unix seconds
//   listed_at          INT64 [C]        unix seconds; -1: not known
//   prior_count        INT64 [C]        -1: not known
//   feat_*, ctx_*      BYTES [C] or [1] [1]: of all candidates. "": not given
//   num_*              FP32  [C] or [1] [1]: of all candidates
//   vector.MODALITY    FP32  [C, dim]   a row of zeros: not given
//
// Outputs: p_ctr, p_cvr, p_ctcvr, FP32 [C].
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "serving/rank_request.h"
#include "serving/scorer.h"

namespace savior {

inline constexpr std::string_view kModelName = "savior";

struct InferRequest {
  struct Output {
    std::string name;     // "p_ctr", "p_cvr" or "p_ctcvr"
    bool binary = false;  // behind the JSON, not in it
  };
  std::string id;  // "" without one
  std::vector<Output> outputs;
  RankRequest rank;
};

// `json_bytes`: the header Inference-Header-Content-Length, if there was one: the JSON is that
// long, binary data follows. kInvalidArgument names the tensor and what is wrong with it.
// Parameters that are not known are tolerated, as the protocol asks; unknown keys and tensors are
// not.
[[nodiscard]] absl::StatusOr<InferRequest> ParseInferRequest(std::string_view body,
                                                             std::optional<size_t> json_bytes,
                                                             const RankLimits& limits, int64_t now);

struct InferResponse {
  std::string body;
  std::optional<size_t> json_bytes;  // set if binary data follows the JSON
};
InferResponse MakeInferResponse(const RankScores& scores, const InferRequest& request,
                                std::string_view version);

// The answers of GET /v2 and GET /v2/models/savior.
std::string ServerMetadata(std::string_view server_version);
std::string ModelMetadata(const ModelCard& card);

}  // namespace savior
