// Item content of a run: encoder -> z, codebook -> codes, and the rows that the `content` table
// serves.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/store.h"
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
};

// Trains what config.model.arm needs, on the training period only: pairs and PCA never see anything
// later. Shows progress. Deterministic.
[[nodiscard]] absl::StatusOr<Content> TrainContent(const TrainingLog& log, const Config& config,
                                                   Period training);

// The rows of the content table when a run starts, [num_contents, ContentRowDim]: z, then the codes
// of version 0, and in the other slot the same ones, so that no slot ever holds what are no codes.
// For arm shuffled_sid the codes are permuted over the contents (seeded): same histogram, no
// meaning.
std::vector<float> ContentRows(const TrainingLog& log, const Content& content,
                               const Config& config);

// Writes them into `store`.
[[nodiscard]] absl::Status PublishContent(const TrainingLog& log, const Content& content,
                                          const Config& config, EmbeddingStore& store);

}  // namespace savior
