// What a codebook consists of: made by its training, kept in its file.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "worker/model/codebook.h"
#include "worker/model/dense.h"

namespace savior {

// y = x skip + mlp(x). The MLP starts as zero, so that a fresh projection is its linear part.
struct Projection {
  std::vector<float> skip;  // [inputs, outputs]
  Mlp mlp;
};

struct CodebookWeights {
  int dim = 0;     // of z
  int latent = 0;  // == dim without projections
  int levels = 0;
  int codes = 0;
  std::vector<float> embeddings;      // [levels, codes, latent]
  std::optional<Projection> encoder;  // dim -> latent; none: the latent is z itself
  std::optional<Projection> decoder;  // latent -> dim; there if the encoder is
};

std::unique_ptr<Codebook> MakeCodebook(CodebookWeights weights);

// What MakeCodebook or LoadCodebook made `codebook` of.
CodebookWeights WeightsOf(const Codebook& codebook);

// The latents [n, latent] of z [n, dim].
std::vector<float> Latents(const CodebookWeights& weights, std::span<const float> z);

}  // namespace savior
