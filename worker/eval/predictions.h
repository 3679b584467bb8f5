// What a ranker said about the impressions of an evaluation period, and the file that keeps it.
//
//   <run>/predictions.parquet   one row per impression, in the order of Predictions
//     user_id, request_id, item_id, timestamp   int64; ids of the raw data, time in unix seconds
//     prior_count                               int32
//     click, conversion                         int8; 0 or 1
//     weight                                    float; 1 if the data has none
//     p_ctr, p_ctcvr                            float
//     in_<bucket>                               bool, one per bucket
//   A log without conversions has neither `conversion` nor `p_ctcvr`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/eval/buckets.h"
#include "worker/eval/item_facts.h"

namespace savior {

// Parallel arrays [n], 48 bytes per impression. Single-threaded.
struct Predictions {
  std::vector<int32_t> users;  // user numbers
  std::vector<int64_t> request_ids;
  std::vector<int32_t> items;       // item numbers
  std::vector<int64_t> timestamps;  // of the request, unix seconds
  std::vector<float> clicks;        // 0 or 1
  std::vector<float> conversions;   // 0 or 1; all 0 if the data has none
  std::vector<float> weights;       // inverse sampling rate; kept for analysis, no metric uses it
  std::vector<int32_t> prior_counts;
  std::vector<float> p_ctr;    // probability of a click
  std::vector<float> p_ctcvr;  // probability of a click with conversion; all 0 if the data has none

  int64_t rows() const { return static_cast<int64_t>(items.size()); }

  // Adds the rows of `batch` with their scores, [batch.rows()] each. `p_ctcvr` may be empty: zeros.
  void Append(const Batch& batch, std::span<const float> batch_p_ctr,
              std::span<const float> batch_p_ctcvr);
  // A copy of the rows from `row` on, 0 <= row <= rows().
  Predictions From(int64_t row) const;
  bool operator==(const Predictions&) const = default;
};

// Membership of the rows: [buckets][n], 1 or 0. `facts` are of `log`.
std::vector<std::vector<uint8_t>> BucketRows(const TrainingLog& log, const Predictions& predictions,
                                             std::span<const Bucket> buckets,
                                             const ItemFacts& facts);

// Writes `path` atomically and durably. Holds the encoded file in RAM (less than `predictions`
// itself, twice).
[[nodiscard]] absl::Status SavePredictions(const std::filesystem::path& path,
                                           const TrainingLog& log, const Predictions& predictions,
                                           std::span<const Bucket> buckets, const ItemFacts& facts);

// Reads what SavePredictions wrote over the same log. kNotFound: no such file; kDataLoss: not such
// a file, or a user or item that `log` does not have (named).
[[nodiscard]] absl::StatusOr<Predictions> LoadPredictions(const std::filesystem::path& path,
                                                          const TrainingLog& log);

}  // namespace savior
