// What an encoder consists of: made by its training, kept in its file.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "worker/model/dense.h"
#include "worker/model/encoder.h"

namespace savior {

// x^ = kInputScale * norm(x - mean): unit vectors of hundreds of dimensions have tiny entries, on
// which an MLP with standard initial weights is nearly linear.
inline constexpr float kInputScale = 5.0f;

struct EncoderWeights {
  int input_dim = 0;
  int dim = 0;
  std::vector<float> mean;   // [input_dim]
  std::vector<float> basis;  // [input_dim, dim]: p = norm((x - mean) basis)
  std::optional<Mlp> mlp;    // none: plain PCA
  float alpha = 0.0f;        // a of the residual form
};

std::unique_ptr<Encoder> MakeEncoder(EncoderWeights weights);
// Of what Encoder::Save wrote; kDataLoss: of something else.
[[nodiscard]] absl::StatusOr<EncoderWeights> LoadEncoderWeights(const TensorFile& file);

}  // namespace savior
