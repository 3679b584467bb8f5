// Any bytes as the body of POST /v1/rank.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serving/rank_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto request = savior::ParseRankRequest(body, {}, 0);
  // What is taken is within the contract; what is not is the client's fault.
  if (request.ok() ? request->candidates.empty() || request->timestamp < 0
                   : !absl::IsInvalidArgument(request.status())) {
    std::abort();
  }
  return 0;
}
