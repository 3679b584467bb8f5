// Any bytes as the body of an inference request: two bytes (little-endian) say how long its JSON
// is, 65535 that there is nothing else.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "serving/inference_protocol.h"

namespace savior {
namespace {

bool WithinContract(const InferRequest& request) {
  const RankRequest& rank = request.rank;
  if (rank.candidates.empty() || rank.timestamp < 0 || request.outputs.empty()) return false;
  for (const Candidate& candidate : rank.candidates) {
    if (candidate.listed_at.value_or(0) < 0 || candidate.prior_count.value_or(0) < 0) return false;
    for (const auto& [name, numbers] : candidate.vectors) {
      for (const float number : numbers) {
        if (!std::isfinite(number)) return false;
      }
    }
  }
  return true;
}

void Answer(const InferRequest& request) {
  const std::vector<float> scores(request.rank.candidates.size(), 0.5F);
  const InferResponse response =
      MakeInferResponse({.p_ctr = scores, .p_cvr = scores, .p_ctcvr = scores}, request, "1");
  if (!nlohmann::json::accept(
          response.body.substr(0, response.json_bytes.value_or(response.body.size())))) {
    std::abort();
  }
}

}  // namespace
}  // namespace savior

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t length = data[0] | (data[1] << 8);
  const std::string_view body(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto request = savior::ParseInferRequest(
      body, length == 65535 ? std::nullopt : std::optional<size_t>(length), {}, 0);
  if (request.ok() ? !savior::WithinContract(*request)
                   : !absl::IsInvalidArgument(request.status())) {
    std::abort();
  }
  if (request.ok()) savior::Answer(*request);
  return 0;
}
