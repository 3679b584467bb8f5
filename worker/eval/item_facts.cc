#include "worker/eval/item_facts.h"

#include <algorithm>
#include <limits>

namespace savior {
namespace {

constexpr int64_t kSecondsPerDay = 86400;

void CountDay(const DayLog& day, Period training, std::span<const int32_t> contents,
              ItemFacts* facts) {
  for (size_t request = 0; request < day.timestamps.size(); ++request) {
    const int64_t time = day.timestamps[request];
    if (time < training.from || time >= training.until) continue;
    const auto begin = static_cast<size_t>(day.row_begin[request]);
    const auto end = static_cast<size_t>(day.row_begin[request + 1]);
    for (const int32_t item : day.items.subspan(begin, end - begin)) {
      const auto i = static_cast<size_t>(item);
      ++facts->train_exposures[i];
      if (contents[i] >= 0) facts->content_seen[static_cast<size_t>(contents[i])] = 1;
    }
  }
}

}  // namespace

int64_t LogStart(const TrainingLog& log) {
  int64_t earliest = std::numeric_limits<int64_t>::max();
  if (!log.days().empty()) earliest = log.days().front().start;
  for (int64_t user = 0; user < log.num_users(); ++user) {
    const std::span<const int64_t> times = log.timeline(user).timestamps;
    if (!times.empty()) earliest = std::min(earliest, times.front());
  }
  if (earliest == std::numeric_limits<int64_t>::max()) return 0;
  return earliest - earliest % kSecondsPerDay;  // times of a log are never negative
}

absl::StatusOr<ItemFacts> ScanTraining(const TrainingLog& log, Period training) {
  ItemFacts facts;
  facts.train_exposures.assign(static_cast<size_t>(log.num_items()), 0);
  facts.content_seen.assign(static_cast<size_t>(log.num_contents()), 0);
  facts.log_start = LogStart(log);
  const std::vector<DayInfo>& days = log.days();
  for (size_t i = 0; i < days.size(); ++i) {
    if (days[i].start >= training.until || days[i].start + kSecondsPerDay <= training.from) {
      continue;
    }
    SAVIOR_ASSIGN_OR_RETURN(const DayLog day, log.ReadDay(i));
    CountDay(day, training, log.item_contents(), &facts);
  }
  return facts;
}

}  // namespace savior
