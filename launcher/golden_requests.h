// Requests of a run's log, scored by the model of a commit as training would: the reference that a
// bundle is checked against (serving/golden.h).
#pragma once

#include <cstdint>
#include <vector>

#include "common/status.h"
#include "launcher/inspected_commit.h"
#include "launcher/run_inputs.h"
#include "serving/golden.h"

namespace savior {

// `count` requests spread over the evaluation period, or, if it has none, over the training period;
// all, if there are no more. Errors: those of reading the log and of the store.
[[nodiscard]] absl::StatusOr<std::vector<GoldenRequest>> GoldenRequests(InspectedCommit& commit,
                                                                        const RunInputs& inputs,
                                                                        int64_t count);

}  // namespace savior
