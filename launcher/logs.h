// From a configuration to an open training log, prepared on first use.
#pragma once

#include <filesystem>
#include <memory>

#include "common/config.h"
#include "common/status.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"

namespace savior {

// Where prepared logs are kept: data.cache, else $SAVIOR_CACHE/logs, else
// $XDG_CACHE_HOME/savior/logs, else ~/.cache/savior/logs.
std::filesystem::path LogCache(const Config& config);

// The log of data.raw, from the cache where its fingerprint is there, prepared otherwise. Several
// processes may ask at once: one prepares, the others wait.
[[nodiscard]] absl::StatusOr<std::unique_ptr<TrainingLog>> OpenOrPrepare(const Config& config);

struct Periods {
  Period training, evaluation;
};

// kInvalidArgument names the date that is not set.
[[nodiscard]] absl::StatusOr<Periods> PeriodsOf(const Config& config);

}  // namespace savior
