// Residual quantiser: z -> L codes, one per level (SaviorRec, Figure 2, middle; RQ-VAE after Lee et
// al. 2022).
//
//   latent  = RqEncoder(z);  r_1 = latent
//   c_l     = argmin_k |r_l - e_l[k]|^2     (ties: lowest k)
//   r_{l+1} = r_l - e_l[c_l]
//   z^      = RqDecoder(sum_l e_l[c_l])
//   loss    = |z - z^|^2 + L_con(z^) + sum_l (|sg r_l - e|^2 + beta |r_l - sg e|^2)
//
// Encoder and decoder are linear maps plus MLPs that start silent: training starts as residual
// k-means on the main directions of z, and fine-tuning goes on from there. With `finetune_steps` =
// 0 the latent is z itself and the codebook is residual k-means. Measured: docs/encoder.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/tensor_file.h"
#include "worker/model/pairs.h"

namespace savior {

struct CodebookOptions {
  int levels = 3;   // L, 1..8
  int codes = 128;  // K, 2..4096
  int latent =
      0;  // dims of the latent; 0: as many as z. Fewer lose more than codes of fewer dims gain
  int hidden = 128;
  double beta = 0.25;
  double contrastive_weight =
      0.03;  // of L_con(z^); above about 0.1 it costs more reconstruction than tuning gains
  double temperature = 0.1;
  int kmeans_iterations = 50;
  int finetune_steps = 500;
  int batch = 1024;
  double lr = 3e-3;  // AdamW, linear to 0
  double weight_decay = 1e-4;
  uint64_t seed = 0;
};

// How well a codebook is used; all over the contents given.
struct CodebookFigures {
  struct Level {
    double perplexity = 0;     // exp(entropy of the code histogram)
    int dead = 0;              // codes without a content
    double largest_share = 0;  // of the contents in the largest code
  };
  std::vector<Level> levels;
  double rq_mse = 0;          // mean |z - z^|^2
  double collision_rate = 0;  // contents that share all codes with another / contents
};

// Immutable, thread-safe, deterministic.
class Codebook {
 public:
  virtual ~Codebook() = default;
  virtual int levels() const = 0;
  virtual int codes() const = 0;
  virtual int dim() const = 0;     // of z
  virtual int latent() const = 0;  // of what is quantised
  // z [n, dim] -> codes [n, levels] in [0, codes).
  virtual std::vector<int32_t> Quantise(std::span<const float> z) const = 0;
  // z^ for codes [n, levels] -> [n, dim].
  virtual std::vector<float> Decode(std::span<const int32_t> codes) const = 0;
  // What is quantised of z [n, dim]: [n, latent].
  virtual std::vector<float> Latents(std::span<const float> z) const = 0;
  // e: [levels, codes, latent].
  virtual std::span<const float> embeddings() const = 0;
  // The same encoder and decoder with other codes, of the same shape.
  virtual std::unique_ptr<Codebook> WithEmbeddings(std::vector<float> embeddings) const = 0;
  virtual TensorFile Save() const = 0;
};

// z [n, dim], the contents to learn from, `weights` [n] (empty: all 1); pairs index rows of z. n >=
// 1; with fewer distinct rows than codes the surplus codes stay dead, which is no error.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Codebook>> TrainCodebook(
    std::span<const float> z, int dim, std::span<const float> weights,
    std::span<const ContentPair> pairs, const CodebookOptions& options);
// Adds up `values` over all who learn together; every one of them gets the same bits.
using GradientSum = std::function<absl::Status(std::span<double> values)>;
// Goes on from `start`, a codebook with encoder and decoder (others come back as they are), with
// the loss above but L_con: steps, batch, lr and seed of `options`. Many may do so together, each
// with rows of its own (none, too): batches are drawn from each, gradients added up by `sum`, and
// all get the same codebook. Errors: those of `sum`; else as TrainCodebook.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Codebook>> FinetuneCodebook(
    const Codebook& start, std::span<const float> z, const CodebookOptions& options,
    const GradientSum& sum);
// kDataLoss: not what Save wrote.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Codebook>> LoadCodebook(const TensorFile& file);

// The use of one level by contents that have `codes` [n, levels], each in [0, num_codes); n >= 1.
CodebookFigures::Level MeasureLevel(std::span<const int32_t> codes, size_t level, size_t levels,
                                    int num_codes);

// The same of a histogram: contents per code, at least one in all.
CodebookFigures::Level UseOf(std::span<const double> contents);

CodebookFigures Measure(const Codebook& codebook, std::span<const float> z);

}  // namespace savior
