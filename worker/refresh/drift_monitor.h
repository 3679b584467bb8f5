// How well a codebook still fits the items that are listed (docs/refresh.md).
#pragma once

#include <absl/container/flat_hash_set.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "worker/data/training_log.h"
#include "worker/model/codebook.h"

namespace savior {

// Of contents, each once; new ones are those listed since the codebook was built.
struct DriftFigures {
  int64_t old_contents = 0, new_contents = 0;
  double old_rq_mse = 0, new_rq_mse = 0;  // mean |z - z^|^2
  double new_code_share = 0;  // new contents whose codes, together, no content before them has
  std::vector<double> old_perplexity, perplexity;  // per level: when it was built, and of all now

  double rq_mse_ratio() const { return old_rq_mse > 0 ? new_rq_mse / old_rq_mse : 1.0; }
  double perplexity_drop() const;  // of the level where it is largest; negative: it has grown

  // Which bound of config.refresh is passed, for people; "": none. New contents below kLeastNew
  // prove nothing.
  std::string Beyond(const Config::Refresh& bounds) const;
  static constexpr int64_t kLeastNew = 50;
};

// Single-threaded. Memory: 8 bytes per distinct combination of codes, and 12 per content.
class DriftMonitor {
 public:
  // `log` outlives it. The codebook, version `version` of a run with `config`, was built from what
  // was listed before `built_until`; of that, kMostOld contents at most are looked at.
  DriftMonitor(const TrainingLog* log, const Config& config, const Codebook& codebook,
               uint32_t version, int64_t built_until);

  // Looks at contents listed before `now`, unix seconds, that it has not seen; reads them from
  // `store`. Errors: the store's; kDataLoss: codes that the codebook does not have.
  [[nodiscard]] absl::Status Advance(int64_t now, EmbeddingStore& store);
  DriftFigures Figures() const;

  static constexpr size_t kMostOld = size_t{1} << 20;

 private:
  struct Listed {
    int64_t at = 0;
    int32_t content = 0;
  };

  absl::Status Look(std::span<const Listed> contents, EmbeddingStore& store, bool old);

  const std::vector<uint64_t> keys_;  // by content
  const size_t dim_, levels_, z_, offset_;
  const Deadline::duration timeout_;
  // The codebook's, for decoding: what is in use may be replaced meanwhile.
  const std::unique_ptr<Codebook> codebook_;
  std::vector<Listed> listed_;  // by time
  size_t old_ = 0;              // listed before built_until
  size_t seen_ = 0;
  bool looked_at_old_ = false;
  absl::flat_hash_set<uint64_t> combinations_;
  double old_error_ = 0, new_error_ = 0;
  int64_t old_count_ = 0, new_count_ = 0, new_combinations_ = 0;
  std::vector<std::vector<double>> old_use_, use_;  // [levels][codes] contents
};

}  // namespace savior
