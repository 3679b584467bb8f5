#include "worker/refresh/content_weights.h"

#include <chrono>
#include <cmath>

#include "worker/refresh/group_sums.h"

namespace savior {
namespace {

constexpr std::chrono::hours kPatience{24};
constexpr size_t kRequestsPerSpend = 4096;

absl::Status CountDay(const TrainingLog& log, const DayLog& day, Period seen, WorkBudget* budget,
                      std::vector<double>* counts) {
  const auto contents = log.item_contents();
  for (size_t r = 0; r < day.timestamps.size(); ++r) {
    if (r % kRequestsPerSpend == 0) SAVIOR_RETURN_IF_ERROR(budget->Spend());
    if (day.timestamps[r] < seen.from || day.timestamps[r] >= seen.until) continue;
    for (int64_t row = day.row_begin[r]; row < day.row_begin[r + 1]; ++row) {
      const int32_t content = contents[static_cast<size_t>(day.items[static_cast<size_t>(row)])];
      if (content >= 0) ++(*counts)[static_cast<size_t>(content)];
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<uint8_t> ListedBefore(const TrainingLog& log, int64_t until) {
  std::vector<uint8_t> listed(static_cast<size_t>(log.num_contents()));
  for (size_t i = 0; i < log.item_contents().size(); ++i) {
    const int32_t content = log.item_contents()[i];
    if (content >= 0 && log.listed_at()[i] < until) listed[static_cast<size_t>(content)] = 1;
  }
  return listed;
}

absl::StatusOr<std::vector<double>> ContentWeights(const TrainingLog& log, Period seen,
                                                   Group* group, WorkBudget* budget) {
  constexpr int64_t kDay = 86400;
  std::vector<double> weights(static_cast<size_t>(log.num_contents()));
  for (size_t d = group->rank(); d < log.days().size(); d += group->size()) {
    const int64_t start = log.days()[d].start;
    if (start + kDay <= seen.from || start >= seen.until) continue;
    SAVIOR_ASSIGN_OR_RETURN(const DayLog day, log.ReadDay(d));
    SAVIOR_RETURN_IF_ERROR(CountDay(log, day, seen, budget, &weights));
  }
  SAVIOR_RETURN_IF_ERROR(SumOverGroup(group, weights, DeadlineIn(kPatience)));
  const std::vector<uint8_t> listed = ListedBefore(log, seen.until);
  for (size_t c = 0; c < weights.size(); ++c) {
    weights[c] = listed[c] != 0 ? std::sqrt(1.0 + weights[c]) : 0.0;
  }
  return weights;
}

}  // namespace savior
