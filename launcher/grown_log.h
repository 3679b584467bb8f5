// A training log that has grown since a commit: what of it is new, and that nothing else is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "launcher/commit.h"
#include "launcher/run_inputs.h"
#include "worker/content.h"
#include "worker/data/log_proof.h"

namespace savior {

struct GrownLog {
  LogProof proof;                     // of the log as it is
  std::vector<int32_t> new_contents;  // numbers in it; empty for the log of the commit
};

// Compares `log`, which is data.raw of `config`, with the log of `commit`; `trained` is what the
// proof is to cover, and begins where the commit's training does. kFailedPrecondition: it is
// another log, or one in which something has changed that a run had trained on (named).
[[nodiscard]] absl::StatusOr<GrownLog> CompareLogs(const Commit& commit, const Config& config,
                                                   const TrainingLog& log, Period trained);

// The ends of the training period so far, in the order in which they came: those of `commit`, and
// that of `config` if it is later. kFailedPrecondition: it is earlier; or the period has grown and
// train.epochs is not 1, or was not.
[[nodiscard]] absl::StatusOr<std::vector<int64_t>> TrainedUntil(const Commit& commit,
                                                                const Config& config,
                                                                Period training);

// Whether a run with `config` could go on from `commit` over its data as it is.
// kFailedPrecondition: as both of the above.
[[nodiscard]] absl::Status CheckGoesOn(const Commit& commit, const Config& config,
                                       const RunInputs& inputs);

// The period with these ends.
Segments SegmentsOf(Period training, std::vector<int64_t> ends);

// The encoder and the codebook in use of `commit`, where it has them. learnt_until: of codebooks
// whose file does not say.
[[nodiscard]] absl::StatusOr<Content> ContentOf(const Commit& commit, int64_t learnt_until);

// Puts the rows of `contents` of `log`, which the commit does not have, into its content table
// `store` under `keys` [contents], codes of the version before included while that may come back.
// Again is the same. kFailedPrecondition: the arm is shuffled_sid.
[[nodiscard]] absl::Status AddContents(const Commit& commit, const Config& config,
                                       const TrainingLog& log, const Content& content,
                                       std::span<const int32_t> contents,
                                       std::span<const uint64_t> keys, EmbeddingStore& store);

// The keys of `contents` of a run's log [contents].
std::vector<uint64_t> KeysOf(const TrainingLog& log, std::span<const int32_t> contents);

// All of the above for who reads a commit beside its data as it is now: its tables, which `store`
// holds, get what has become known since. Returns how many contents that is.
[[nodiscard]] absl::StatusOr<int64_t> CatchUp(const Commit& commit, const Config& config,
                                              const TrainingLog& log, EmbeddingStore& store);

}  // namespace savior
