// The scorer over a bundle: requests by ids or raw vectors -> rows -> graph -> probabilities.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"
#include "serving/bundle.h"
#include "serving/scorer.h"

namespace savior {

// Loads bundle `version` of `dir` with all it is based on. `digests`: checks every byte first, but
// of what `known` has.
// Errors: OpenChain's, BundleModel::Load's, RankerGraph's.
[[nodiscard]] absl::StatusOr<std::shared_ptr<const Scorer>> LoadScorer(
    const std::filesystem::path& dir, const std::string& version, bool digests,
    DigestCache* known = nullptr);

// The same over an open chain.
[[nodiscard]] absl::StatusOr<std::shared_ptr<const Scorer>> ScorerOf(const BundleChain& chain);

}  // namespace savior
