// What the training period knew about items: the facts that evaluation buckets ask for.
#pragma once

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"

namespace savior {

// 12 bytes per item or less.
struct ItemFacts {
  std::vector<int64_t> train_exposures;  // [items] impressions of the item in the training period
  std::vector<uint8_t>
      content_seen;       // [contents] 1: some item with this content had an impression there
  int64_t log_start = 0;  // see LogStart
};

// Midnight (UTC) of the log's earliest request or behaviour, unix seconds: the day 0 of
// `listed_day`. Behaviours count, since a log may begin with weeks that have no requests. 0 if the
// log has neither.
int64_t LogStart(const TrainingLog& log);

// One pass over the days of `log` that touch `training`. Errors are those of reading a day.
[[nodiscard]] absl::StatusOr<ItemFacts> ScanTraining(const TrainingLog& log, Period training);

}  // namespace savior
