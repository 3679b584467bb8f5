// What `savior train` and `savior evaluate` do in one process (in many: launcher/cluster_run.h).
#pragma once

#include <ostream>
#include <string>

#include "common/config.h"
#include "common/status.h"
#include "launcher/training_run.h"
#include "worker/eval/evaluation.h"

namespace savior {

// Trains, commits, evaluates; prints the table to `out`, writes result.json. kCancelled when
// stopped: the message says how to go on.
[[nodiscard]] absl::StatusOr<EvalResult> Train(const Config& config, const RunOptions& options,
                                               std::ostream& out);

// Scores the newest whole commit of run folder `run` (or the commit folder `commit`, if not empty)
// on `config`'s evaluation period; `overrides` are key=value on top of the run's own configuration.
[[nodiscard]] absl::StatusOr<EvalResult> EvaluateRun(const std::string& run,
                                                     const std::string& commit,
                                                     const std::vector<std::string>& overrides,
                                                     std::ostream& out);

// Checks configuration, data and schema without training, and prints what the run would be: sizes,
// steps, memory.
[[nodiscard]] absl::Status DryRun(const Config& config, std::ostream& out);

// Trains with both encoders on the training days but the last 14, scores those, and says which
// encoder.kind to use: the ranker's AUC decides, since retrieval figures do not order encoders as
// the ranker does (docs/encoder.md).
[[nodiscard]] absl::Status CheckEncoder(const Config& config, const RunOptions& options,
                                        std::ostream& out);

}  // namespace savior
