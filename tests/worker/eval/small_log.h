// Days of requests for a FakeLog, small enough to check by eye.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "tests/worker/fake_log.h"

namespace savior {

inline constexpr int64_t kDay = 86400;

struct SmallRequest {
  int64_t timestamp = 0;
  std::vector<int32_t> items;
};

// One item per entry of `contents` (content numbers, -1: none), listed at `listed_at`.
inline void AddItems(const std::vector<int64_t>& listed_at, const std::vector<int32_t>& contents,
                     FakeLog* log) {
  for (size_t i = 0; i < contents.size(); ++i) {
    while (log->num_contents() <= contents[i]) log->AddContent({});
    log->AddItem(contents[i], listed_at[i]);
  }
}

// Adds the day that holds all of `requests`. Only the columns that counting exposures reads: times
// and items.
inline void AddDay(const std::vector<SmallRequest>& requests, FakeLog* log) {
  struct Columns {
    std::vector<int64_t> timestamps;
    std::vector<int64_t> row_begin = {0};
    std::vector<int32_t> items;
  };
  auto columns = std::make_shared<Columns>();
  for (const SmallRequest& request : requests) {
    columns->timestamps.push_back(request.timestamp);
    columns->items.insert(columns->items.end(), request.items.begin(), request.items.end());
    columns->row_begin.push_back(static_cast<int64_t>(columns->items.size()));
  }
  DayLog day;
  day.timestamps = columns->timestamps;
  day.row_begin = columns->row_begin;
  day.items = columns->items;
  DayInfo info;
  info.start = requests.front().timestamp / kDay * kDay;
  info.requests = static_cast<int64_t>(requests.size());
  info.rows = static_cast<int64_t>(columns->items.size());
  day.mapping = std::move(columns);
  log->AddDay(info, std::move(day));
}

}  // namespace savior
