// Batches of requests, and the order in which training sees them.
//
// A batch is a set of requests, not of rows: the candidates of a request share one user and one
// history, which is pulled, projected and attended over once. Histories are jagged: no padding
// anywhere.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/status.h"
#include "worker/data/training_log.h"

namespace savior {

// [from, until) in unix seconds.
struct Period {
  int64_t from = 0;
  int64_t until = 0;
  bool operator==(const Period&) const = default;
};

// What a run trains on: a period, cut where training stopped while its log grew. What is on one
// side of a cut is read as if there were nothing on the other: no batch and no shuffle window
// crosses it, so what comes behind changes no batch before. Cuts ascend, strictly inside the
// period.
struct Segments {
  Segments() = default;
  Segments(Period period) : whole(period) {}  // NOLINT(google-explicit-constructor): one segment
  Period whole;
  std::vector<int64_t> cuts = {};  // unix seconds
  bool operator==(const Segments&) const = default;
};

struct BatchOptions {
  Period period;                    // requests with from <= timestamp < until
  int64_t requests_per_batch = 64;  // > 0; the last batch may be smaller
  int64_t max_history = 50;         // the most recent behaviours before the request; >= 0
  int64_t shuffle_window =
      0;  // requests are shuffled inside windows of this many, in time order; 0: time order
  uint64_t seed = 0;  // of the first segment; later ones have seeds of their own
  // Of the R requests of a batch this reader reads those from worker * R / workers to (worker + 1)
  // * R / workers, rounded down: perhaps none. The batches themselves do not depend on either.
  int64_t worker = 0;  // 0 <= worker < workers
  int64_t workers = 1;
  std::vector<int64_t> cuts = {};  // of the period: see Segments
};

// Plain arrays; no LibTorch. R requests, N rows, T history positions: of the worker's slice.
struct Batch {
  std::vector<int64_t> request_ids;      // [R]
  std::vector<int32_t> users;            // [R] user numbers
  std::vector<int64_t> timestamps;       // [R]
  std::vector<int32_t> row_offsets;      // [R + 1]
  std::vector<int32_t> history_offsets;  // [R + 1]

  std::vector<int32_t> history_items;  // [T] item numbers, oldest first within a request
  std::vector<int64_t> history_times;  // [T] unix seconds
  std::vector<int8_t> history_kinds;   // [T]

  std::vector<int32_t> items;                 // [N] item numbers
  std::vector<float> clicks;                  // [N] 0 or 1
  std::vector<float> conversions;             // [N] 0 or 1; all 0 if the data has none
  std::vector<float> weights;                 // [N] 1 if the data has none; never a feature
  std::vector<int32_t> prior_counts;          // [N]
  std::vector<std::vector<int32_t>> context;  // per context feature: [N] codes
  std::vector<std::vector<float>> numerics;   // per context numeric: [N]

  // Of all workers' slices together.
  int64_t global_requests = 0;
  int64_t global_rows = 0;

  int64_t requests() const { return static_cast<int64_t>(users.size()); }
  int64_t rows() const { return static_cast<int64_t>(items.size()); }
  bool operator==(const Batch&) const = default;
};

// Single-threaded. Batch `index` is a pure function of (log, options, index): that is the data
// cursor of a commit.
class BatchReader {
 public:
  // `log` must outlive the reader. kInvalidArgument: options out of bounds.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<BatchReader>> Create(
      const TrainingLog* log, const BatchOptions& options);
  virtual ~BatchReader() = default;
  virtual int64_t num_batches() const = 0;
  virtual int64_t num_requests() const = 0;  // of all workers
  virtual int64_t num_rows() const = 0;      // of all workers
  // The worker's slice of batch `index`,
  // 0 <= index < num_batches(). Sequential access is fast; any index is allowed.
  [[nodiscard]] virtual absl::StatusOr<Batch> Read(int64_t index) = 0;
};

}  // namespace savior
