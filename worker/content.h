// Item content of a run: encoder -> z, codebook -> codes, and the rows that the `content` table
// serves.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/store.h"
#include "common/tensor_file.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/model/codebook.h"
#include "worker/model/encoder.h"

namespace savior {

// Null where the arm does not use it.
struct Content {
  std::unique_ptr<Encoder> encoder;
  std::unique_ptr<Codebook> codebook;
  std::optional<CodebookFigures> figures;  // over all contents
  int64_t learnt_until = 0;  // of the data that the codebook is built from, unix seconds
};

// The codebook as a file, with learnt_until.
TensorFile SaveCodebook(const Content& content);
// The reverse. Files from before it was kept: `otherwise`.
[[nodiscard]] absl::Status LoadCodebookInto(const TensorFile& file, int64_t otherwise,
                                            Content* content);

// What encoder and codebook learn from, of a training period: the days before codebook.learn_until.
// kInvalidArgument: that is no date, or not in the period.
[[nodiscard]] absl::StatusOr<Period> LearningPeriod(const Config& config, Period training);

// Trains what config.model.arm needs, on the learning period only: pairs, PCA and codes never see
// anything later. Shows progress. Deterministic.
[[nodiscard]] absl::StatusOr<Content> TrainContent(const TrainingLog& log, const Config& config,
                                                   Period training);

// The encoder of `current`, trained on for refresh.encoder_steps steps on the pairs of `seen`
// (TuneEncoder, which says when it gives null). `breathe` is called between steps, and its errors
// end it.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Encoder>> RefreshEncoder(
    const TrainingLog& log, const Config& config, const Encoder& current, Period seen,
    uint64_t seed, const std::function<absl::Status()>& breathe);

// The version before the one in use, as long as it may come back. Null: the same as that.
struct FormerContent {
  std::unique_ptr<Encoder> encoder;
  std::unique_ptr<Codebook> codebook;
};

// The rows of the content table of `contents` of `log`, [contents, ContentLayout::row]: in the slot
// of `version` z and codes of `content`, in the other one those of `former`, so that no slot ever
// holds what are no codes. For arm shuffled_sid the codes are permuted over the contents (seeded):
// same histogram, no meaning.
std::vector<float> ContentRows(const TrainingLog& log, std::span<const int32_t> contents,
                               const Content& content, const FormerContent& former,
                               uint32_t version, const Config& config);

// Writes them into `store` under `keys` [contents]; nothing where the arm has no content. Errors:
// the store's; kFailedPrecondition: its rows are from before a codebook had versions.
[[nodiscard]] absl::Status PutContents(const TrainingLog& log, std::span<const int32_t> contents,
                                       std::span<const uint64_t> keys, const Content& content,
                                       const FormerContent& former, uint32_t version,
                                       const Config& config, EmbeddingStore& store);

// Those of all contents, when a run starts.
[[nodiscard]] absl::Status PublishContent(const TrainingLog& log, const Content& content,
                                          const Config& config, EmbeddingStore& store);

}  // namespace savior
