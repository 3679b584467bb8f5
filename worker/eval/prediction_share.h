// Scoring by several workers: each scores whole batches, and the shares are put together in the
// order of the batches. A batch is scored as it would be by one worker alone, so every bit is the
// same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "worker/eval/predictions.h"

namespace savior {

// Batches worker, worker + workers, worker + 2 * workers, ... of a period.
struct PredictionShare {
  int64_t worker = 0, workers = 1;
  std::vector<int64_t> batch_rows;  // impressions of each
  Predictions predictions;
};

// For a program of the same build: host byte order, no version. 8 bytes per batch and 48 per
// impression.
std::string EncodeShare(const PredictionShare& share);
// kDataLoss: not what EncodeShare made.
[[nodiscard]] absl::StatusOr<PredictionShare> DecodeShare(std::string_view bytes);

// All workers' shares, by worker. kDataLoss names the share that does not fit.
[[nodiscard]] absl::StatusOr<Predictions> MergeShares(std::span<const PredictionShare> shares);

}  // namespace savior
