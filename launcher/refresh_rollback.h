// Back to the codebook before, between two lives of a run (docs/refresh.md).
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/status.h"
#include "launcher/commit.h"

namespace savior {

// The line of refresh.jsonl for a rollback to `version` that was done: the run goes on from `step`.
nlohmann::ordered_json RollbackEvent(uint32_t version, int64_t step);

// Makes the commit of the switch to the codebook in use the newest one, with the version before it
// in use, and deletes those after it. Does nothing if that version is in use already. `run`: its
// folder, which nobody else writes into. `fits` says whether the run can go on from that commit,
// and is asked before anything is deleted. kFailedPrecondition: no switch can be undone; kNotFound,
// kDataLoss: its commit is not there or damaged; or what `fits` says.
[[nodiscard]] absl::Status RollBackCodebook(const std::filesystem::path& run, uint32_t version,
                                            absl::FunctionRef<absl::Status(const Commit&)> fits);

}  // namespace savior
