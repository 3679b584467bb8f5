// How much a content counts when a codebook is built.
#pragma once

#include <vector>

#include "common/status.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/group.h"
#include "worker/refresh/work_budget.h"

namespace savior {

// sqrt(1 + impressions in `seen`) of every content that has an item listed before seen.until, 0 of
// the others: [contents]. The days are shared out to the members of `group`, who all call it and
// all get the same. Errors: the group's, the budget's, those of reading a day.
[[nodiscard]] absl::StatusOr<std::vector<double>> ContentWeights(const TrainingLog& log,
                                                                 Period seen, Group* group,
                                                                 WorkBudget* budget);

// 1 for every content that has an item listed before `until`: [contents].
std::vector<uint8_t> ListedBefore(const TrainingLog& log, int64_t until);

}  // namespace savior
