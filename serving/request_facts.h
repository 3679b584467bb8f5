// What a request says and what the catalogue adds: per candidate everything that the model looks
// at, checked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "serving/bundle_model.h"
#include "serving/rank_request.h"

namespace savior {

struct CandidateInput {
  std::optional<uint64_t> item = {};
  std::optional<uint64_t> content = {};  // in the bundle
  std::optional<ColdContent> cold = {};  // of vectors in the request; then `content` is not used
  std::vector<int32_t> features = {};    // [F] codes
  std::vector<int32_t> context = {};     // [X] codes
  std::vector<float> numerics = {};      // of the item, then of the impression; 0 where not given
  int64_t listed_at = 0;
  int64_t prior_count = 0;
};

// Both must outlive it. Single-threaded.
class RequestFacts {
 public:
  RequestFacts(const BundleModel& model, const RankRequest& request)
      : model_(model), request_(request) {}

  // What concerns the request as a whole. kInvalidArgument: see Scorer::Rank.
  [[nodiscard]] absl::Status Check() const;

  // The newest data.max_history behaviours strictly before the request, oldest first; of equal
  // times the later in the request is the newer.
  std::vector<PastBehaviour> History() const;

  // kInvalidArgument names the candidate.
  [[nodiscard]] absl::StatusOr<std::vector<CandidateInput>> Candidates() const;

 private:
  absl::StatusOr<CandidateInput> CandidateOf(size_t number) const;
  absl::Status TakeVectors(const Candidate& candidate, CandidateInput* input) const;
  absl::Status TakeFeatures(const Candidate& candidate, CandidateInput* input) const;
  absl::Status TakeNumerics(const Candidate& candidate, const CatalogueItem* item,
                            CandidateInput* input) const;

  const BundleModel& model_;
  const RankRequest& request_;
};

}  // namespace savior
