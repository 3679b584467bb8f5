// What a run reads: the prepared log, the days of training and evaluation, the table of results.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "launcher/logs.h"
#include "worker/data/training_log.h"
#include "worker/eval/buckets.h"
#include "worker/trainer.h"

namespace savior {

struct RunInputs {
  std::vector<Bucket> buckets;
  Periods periods;
  std::unique_ptr<TrainingLog> log;

  // Prepares the log if need be. Errors name the key that is wrong.
  [[nodiscard]] static absl::StatusOr<RunInputs> Open(const Config& config);
  // Wrong dates are the likeliest mistake with a new data set: kInvalidArgument if there is nothing
  // to train on; a warning if there is nothing to score.
  [[nodiscard]] absl::Status CheckPeriods() const;
};

// The dense weights that lie in a commit's folder.
[[nodiscard]] absl::Status LoadDense(const std::filesystem::path& commit, Trainer* trainer);

// Sums inside LibTorch depend on the number of threads: scoring must use as many as training did.
void UseThreads(const Config& config);

}  // namespace savior
