// SaviorEnc: item vectors of all modalities -> one aligned content vector z per content (SaviorRec,
// Figure 2, left).
//
//   p(x) = norm(PCA_d(concat over modalities of x_m))                       kind "pca"
//   z(x) = norm(p(x) + a * norm(MLP(x^))),  x^ = c * norm(x - mean)         kind "swing_residual"
//
// trained with InfoNCE over behaviour pairs (in-batch negatives; duplicates and known neighbours
// masked). The residual form keeps z near its PCA anchor: contrastive training alone drives z
// towards popularity.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/tensor_file.h"
#include "worker/data/training_log.h"
#include "worker/model/pairs.h"

namespace savior {

enum class EncoderKind : uint8_t { kPca, kSwingResidual };

struct EncoderOptions {
  EncoderKind kind = EncoderKind::kSwingResidual;
  int dim = 64;  // of z; <= the sum of the modalities' dims
  int hidden = 256;
  double temperature = 0.1;
  int batch = 1024;  // pairs
  int steps = 350;
  double lr = 1e-3;  // AdamW, linear to 0
  double weight_decay = 1e-4;
  double initial_alpha = 0.3;  // a at the start; not 0
  uint64_t seed = 0;
};

// A trained encoder: immutable, thread-safe. Deterministic: same log, options and pairs, same bits.
class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual int input_dim() const = 0;  // sum of the modalities' dims
  virtual int dim() const = 0;
  // x [n, input_dim] (modalities concatenated in schema order, each scaled to unit length, zeros
  // where absent)
  // -> z [n, dim], unit length; an all-zero x gives an all-zero z.
  virtual std::vector<float> Encode(std::span<const float> x) const = 0;
  // Everything needed to encode again (new items, serving).
  virtual TensorFile Save() const = 0;
};

// Encoder inputs x [n, sum of the modalities' dims] of `contents` (content numbers).
std::vector<float> EncoderInputs(const TrainingLog& log, std::span<const int32_t> contents);

// z of `contents` (content numbers) and of every content, [n, encoder.dim()]: row by row, so that a
// content's bits do not depend on which others are asked for. The log has the modalities that the
// encoder was trained on.
std::vector<float> EncodeContents(const TrainingLog& log, std::span<const int32_t> contents,
                                  const Encoder& encoder);
std::vector<float> EncodeAll(const TrainingLog& log, const Encoder& encoder);

// PCA is fitted on the contents of items listed before `pca_until` (unix seconds), so that no later
// item shapes the space; then, for kSwingResidual, trains on `pairs` (without pairs it stays plain
// PCA and says so). kInvalidArgument: options out of bounds, pairs of unknown contents, no content
// before `pca_until`.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Encoder>> TrainEncoder(
    const TrainingLog& log, std::span<const ContentPair> pairs, int64_t pca_until,
    const EncoderOptions& options);
// `current`, trained on for options.steps steps on `pairs`. Its PCA anchor stays, and with it what
// the axes of z are. Null: there is nothing to train, since it is plain PCA, nothing to train on,
// or no step to do. `breathe` is called after each step, and its errors end it. kInvalidArgument:
// as above; kFailedPrecondition: it has diverged.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Encoder>> TuneEncoder(
    const TrainingLog& log, const Encoder& current, std::span<const ContentPair> pairs,
    const EncoderOptions& options, const std::function<absl::Status()>& breathe);
// kDataLoss: not what Save wrote.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Encoder>> LoadEncoder(const TensorFile& file);

}  // namespace savior
