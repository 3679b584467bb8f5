// What a person asks of a run's codebook: a file in the run's folder, which the lead looks for.
//
//   <run>/refresh.request      {"what": "refresh" | "rollback", "version": n}
//
// It stays until it is answered, over restarts. `version`: that the run should then have. Whoever
// asks twice asks once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "common/status.h"

namespace savior {

struct RefreshRequest {
  enum class What { kRefresh, kRollback };
  What what = What::kRefresh;
  uint32_t version = 0;
  bool operator==(const RefreshRequest&) const = default;
};

// Durable. kFailedPrecondition: another request waits for its answer (named).
[[nodiscard]] absl::Status AskForRefresh(const std::filesystem::path& run,
                                         const RefreshRequest& request);
// None: nobody asks. kDataLoss: the file is not ours.
[[nodiscard]] absl::StatusOr<std::optional<RefreshRequest>> ReadRefreshRequest(
    const std::filesystem::path& run);
// Durable; none: fine.
[[nodiscard]] absl::Status RemoveRefreshRequest(const std::filesystem::path& run);

}  // namespace savior
