// The training log: what `savior prepare` writes and everything after it reads. Arrow IPC files,
// memory-mapped, below the log's folder:
//
//   manifest.json            schema, counts, digests of all files. Written last: a log without it
//                            is not a log
//   items.arrow              a row per item, by ascending item_id: its row is its *item number*
//   vectors-<modality>.arrow a row per distinct content (float16): its row is its *content number*
//   users.arrow              a row per user, by ascending user_id: its row is its *user number*
//   timelines-*.arrow        every user's behaviours by time, users in order of their numbers
//   days/<date>-requests.arrow, days/<date>-rows.arrow
//                            requests by (timestamp, request_id), and their impressions: a record
//                            batch per day. Small days share a pair of files, which is named by the
//                            first of them
//
// Histories are not copied into rows: a request names the end of the slice of its user's timeline
// that lies strictly before it. Nothing of the future can reach a batch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

// A categorical feature. Code 0 = missing or unknown; codes 1.. are the distinct strings, most
// frequent first.
struct CategoricalFeature {
  std::string name;                     // "feat_brand", "ctx_display"
  std::vector<std::string> vocabulary;  // [0] = ""
};

struct Modality {
  std::string name;  // "text"
  int dim = 0;
};

struct LogSchema {
  std::vector<CategoricalFeature> item_features;     // feat_*
  std::vector<std::string> item_numerics;            // num_* of items
  std::vector<CategoricalFeature> context_features;  // ctx_*
  std::vector<std::string> context_numerics;         // num_* of impressions
  std::vector<Modality> modalities;
  std::vector<std::string> behaviour_kinds;  // code -> kind
  bool has_conversion = false;
  bool has_weight = false;
};

struct DayInfo {
  int64_t start = 0;  // unix seconds of its midnight, UTC
  int64_t requests = 0;
  int64_t rows = 0;
};

// Behaviours of one user, ascending by time (ties by raw order). Spans point into the mapped file.
struct Timeline {
  std::span<const int32_t> items;       // item numbers
  std::span<const int64_t> timestamps;  // unix seconds
  std::span<const int8_t> kinds;        // into LogSchema::behaviour_kinds
};

// One day of requests and their rows (impressions). Requests ascend by (timestamp, request_id); the
// rows of request r are [row_begin[r], row_begin[r + 1]).
struct DayLog {
  std::span<const int64_t> request_ids;  // [r]
  std::span<const int32_t> users;        // [r] user numbers
  std::span<const int64_t> timestamps;   // [r] unix seconds
  std::span<const int64_t>
      history_end;  // [r] behaviours [0, history_end) of the user are strictly before the request
  std::span<const int64_t> row_begin;  // [r + 1]

  std::span<const int32_t> items;         // [n] item numbers
  std::span<const int8_t> clicks;         // [n] 0 or 1
  std::span<const int8_t> conversions;    // [n], empty if the data has none
  std::span<const float> weights;         // [n], empty if the data has none; never a feature
  std::span<const int32_t> prior_counts;  // [n] behaviours with this item on earlier days (UTC)
  std::vector<std::span<const int32_t>> context;  // per context feature: [n] codes
  std::vector<std::span<const float>> numerics;   // per context numeric: [n]
  std::shared_ptr<const void> mapping;            // keeps the mapped files alive
};

// Thread-safe after Open: immutable. Spans live as long as the log.
class TrainingLog {
 public:
  // kNotFound: no such log; kDataLoss: a file is missing, truncated or of another layout (named).
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<TrainingLog>> Open(
      const std::filesystem::path& folder);
  virtual ~TrainingLog() = default;

  virtual const LogSchema& schema() const = 0;
  // Hex digest of the log's files and schema: equal fingerprints, equal logs. It does not depend on
  // where or when the log was made.
  virtual const std::string& fingerprint() const = 0;

  virtual int64_t num_items() const = 0;
  virtual int64_t num_users() const = 0;
  virtual int64_t num_contents() const = 0;
  virtual std::span<const int64_t> item_ids() const = 0;   // [items] ascending
  virtual std::span<const int64_t> listed_at() const = 0;  // [items] unix seconds
  virtual std::span<const int32_t> item_contents()
      const = 0;  // [items] content number; -1: no vector
  virtual std::span<const int32_t> item_feature(size_t feature) const = 0;  // [items] codes
  virtual std::span<const float> item_numeric(size_t feature) const = 0;    // [items]
  virtual std::string_view title(int64_t item) const = 0;  // "" if the data has none
  virtual std::span<const int64_t> user_ids() const = 0;   // [users] ascending

  // Raw vectors of one modality as float16 bits, [contents, dim].
  virtual std::span<const uint16_t> vectors(size_t modality) const = 0;

  virtual Timeline timeline(int64_t user) const = 0;

  virtual const std::vector<DayInfo>& days()
      const = 0;  // ascending; days without requests are absent
  [[nodiscard]] virtual absl::StatusOr<DayLog> ReadDay(size_t day) const = 0;  // index into days()
};

}  // namespace savior
