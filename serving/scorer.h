// A scorer: one version of a model, ready to answer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "serving/rank_request.h"

namespace savior {

// What a scorer's model takes, for metadata and for checking requests.
struct ModelCard {
  std::string version;  // of the bundle: its step, 12 digits
  int64_t step = 0;
  std::string codebook_version;               // digest of the codebook; "" without one
  std::vector<std::string> item_features;     // "feat_*"
  std::vector<std::string> item_numerics;     // "num_*"
  std::vector<std::string> context_features;  // "ctx_*"
  std::vector<std::string> context_numerics;  // "num_*"
  struct Modality {
    std::string name;
    int64_t dim = 0;
  };
  std::vector<Modality> modalities;
  int64_t items = 0;  // in the catalogue
};

// Immutable and thread-safe: many threads may call Rank at once.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual const ModelCard& card() const = 0;
  // kInvalidArgument says what is wrong and where ("candidates[3].vectors.text: 300 values, the
  // model takes 384"): no candidates, an unknown feature, modality or numeric (the nearest is
  // named), a value that is not finite. Scores are finite and in [0, 1].
  [[nodiscard]] virtual absl::StatusOr<RankScores> Rank(const RankRequest& request) const = 0;
};

}  // namespace savior
