// The steps of `savior prepare`, in the order in which they run. Private to worker/data.
//
//   items, vectors -> item numbers, content numbers
//   impressions    -> users seen, one spilled partition per day
//   behaviours     -> users seen, then spilled twice: by range of users and by day
//   timelines      -> written, mapped
//   days           -> written one by one, with history ends and prior counts
//
// All are single-threaded, and deterministic functions of the raw data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/data/arrow_files.h"
#include "worker/data/id_index.h"
#include "worker/data/log_manifest.h"
#include "worker/data/raw.h"
#include "worker/data/spill.h"
#include "worker/data/timelines.h"
#include "worker/data/vocabulary.h"

namespace savior {

// What the steps hand on.
struct PrepareWork {
  std::filesystem::path folder;   // the log to be
  std::filesystem::path scratch;  // below it; removed before the manifest is written
  int64_t memory_bytes = 0;
  LogManifest manifest;
  IdIndex items;
  IdCollector users;                  // of impressions and behaviours
  std::vector<int64_t> user_ids;      // [user number] ascending; once all were seen
  std::vector<int32_t> user_numbers;  // [place in `users`] user number
};

// Rows of a slice of scalars, and of vectors (which are a thousand times wider).
inline constexpr int64_t kSliceRows = 1 << 16;
inline constexpr int64_t kVectorSliceRows = 1 << 11;

// Why `timestamp` is no time in unix seconds; nullptr if it is one.
const char* TimeProblem(int64_t timestamp);

// Writes items.arrow and the vectors.
[[nodiscard]] absl::Status PrepareItems(const RawTable& items, const RawTable& vectors,
                                        PrepareWork* work);

// Numbers the distinct contents (all modalities of an item together) in order of their first item,
// writes vectors-*.arrow, and returns every item's content [items], -1 for those without a vector.
[[nodiscard]] absl::StatusOr<std::vector<int32_t>> PrepareVectors(const RawTable& vectors,
                                                                  PrepareWork* work);

// Behaviours by user and by day.
class BehaviourSorter {
 public:
  // Both must outlive the sorter.
  BehaviourSorter(const RawTable* table, PrepareWork* work);

  // Refuses a wrong schema.
  [[nodiscard]] absl::Status Check() const;
  // Collects users and how many behaviours each has.
  [[nodiscard]] absl::Status CountUsers();
  // Checks and spills all rows. Users must be numbered.
  [[nodiscard]] absl::Status Scan();
  // Writes users.arrow and timelines-*.arrow.
  [[nodiscard]] absl::Status WriteTimelines();
  // Adds the behaviours of days before `day` (days since 1970) to `counts` [items]; days ascend
  // from call to call.
  [[nodiscard]] absl::Status AddDaysBefore(int64_t day, std::vector<int32_t>* counts);

 private:
  struct Record {
    int64_t timestamp = 0;
    int32_t user = 0;
    int32_t item = 0;
    int32_t kind = 0;  // provisional code
    int32_t unused = 0;
  };

  void SplitUsers();
  absl::Status WritePart(size_t part, const std::vector<int32_t>& final_kinds);

  const RawTable* const table_;
  PrepareWork* const work_;
  std::vector<int64_t> counts_;        // [place, later user number] behaviours
  std::vector<int32_t> part_of_user_;  // [user number]
  VocabularyBuilder kinds_;
  std::unique_ptr<Spill> by_part_;  // Record
  std::unique_ptr<Spill> by_day_;   // item number
  std::vector<int64_t> days_;       // days left, descending
};

// Impressions by day and request.
class ImpressionSorter {
 public:
  // Both must outlive the sorter.
  ImpressionSorter(const RawTable* table, PrepareWork* work);

  // Refuses a wrong schema.
  [[nodiscard]] absl::Status Check() const;
  // Checks and spills all rows, and collects users.
  [[nodiscard]] absl::Status Scan();
  // Writes days/ and completes the manifest. Users must be numbered.
  [[nodiscard]] absl::Status WriteDays(const Timelines& timelines, BehaviourSorter* behaviours);

 private:
  // A spilled row: this, then context codes (provisional) and numerics, 4 bytes each.
  struct Head {
    int64_t request_id = 0;
    int64_t timestamp = 0;
    int32_t user = 0;  // place in PrepareWork::users
    int32_t item = 0;
    float weight = 1.0f;
    int8_t click = 0;
    int8_t conversion = 0;
    int16_t unused = 0;
  };
  // One per run of rows of one request: for refusing a request with two users or times.
  struct RequestKey {
    int64_t request_id = 0;
    int64_t timestamp = 0;
    int64_t row = 0;
    int64_t user = 0;
  };
  // One day in memory.
  struct DayRows {
    std::vector<char> bytes;
    std::vector<size_t> order;  // rows by (timestamp, request, raw order) -> offset in bytes
  };

  absl::Status ScanSlice(const RawSlice& slice, Spill* keys);
  absl::Status ReadLabels(const RawSlice& slice, size_t row, Head* head) const;
  absl::Status CheckRequests(Spill* keys) const;
  DayRows SortDay(std::vector<char> bytes) const;
  ColumnSet Requests(const DayRows& day, const Timelines& timelines) const;
  ColumnSet Rows(const DayRows& day, const std::vector<int32_t>& prior_counts);
  Head HeadAt(const DayRows& day, size_t row) const;

  const RawTable* const table_;
  PrepareWork* const work_;
  const std::vector<std::string> context_;   // ctx_* columns
  const std::vector<std::string> numerics_;  // num_* columns
  const bool has_conversion_;
  const bool has_weight_;
  const std::vector<RawColumn> columns_;
  const size_t record_bytes_;
  Spill by_day_;
  std::vector<VocabularyBuilder> vocabularies_;    // per context feature
  std::vector<std::vector<int32_t>> final_codes_;  // per context feature
  std::vector<std::vector<int32_t>> slice_codes_;  // scratch of ScanSlice
  RequestKey last_key_;
};

}  // namespace savior
