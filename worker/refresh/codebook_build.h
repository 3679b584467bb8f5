// The next version of a codebook, built by all workers together from the one in use
// (docs/refresh.md).
//
// Warm-started residual k-means: per level Lloyd's iterations from the old centroids, over the
// latents of the contents, each worker assigning its own. What an iteration exchanges are sums per
// code in double, [K, latent + 2] (sum x, contents, sum d^2), added in the order of the workers;
// every worker makes the same centroids of them. Then RQ encoder, codes and decoder are fine-tuned
// from where they are, gradients added up likewise: small steps, so that code numbers keep their
// meaning. At the end all compare a SHA-256 of the codebook's file.
//
// All contents count alike, as for the first codebook (TrainCodebook): with popular ones counted
// more, codes would move where nothing has drifted (measured: docs/refresh.md).
//
// Hysteresis: a content keeps its old code of a level while that one's distance is within a factor
// of the least; the residual of the next level follows from the code that was taken.
//
// Deterministic: the same bits for the same number of workers. Ties go to the lowest code.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/group.h"
#include "worker/model/codebook.h"
#include "worker/refresh/work_budget.h"

namespace savior {

struct BuildOptions {
  int iterations = 20;    // Lloyd's, per level, at most; >= 0
  double settled = 1e-3;  // a level ends when less than this share of the weight changes its code
  double hysteresis = 1.05;  // >= 1, on distances (not squared)
  // RQ-VAE steps of all workers together after k-means (worker/model/codebook.h): finetune_steps,
  // batch (of all), lr, beta, weight_decay, seed.
  CodebookOptions finetune = {.finetune_steps = 0};
};

// A worker's contents. Any split over the workers; [n] may be 0.
struct ContentShard {
  std::span<const float> z;         // [n, dim]
  std::span<const double> weights;  // [n], of the joint: > 0; 0: gets codes, is not learnt from
  std::span<const int32_t> codes;   // [n, levels] under the codebook in use
  // [n, dim] under the encoder in use, which `codes` are of; empty: z.
  std::span<const float> z_in_use = {};
};

// Over all contents with a weight, of all workers; each counts once.
struct BuildFigures {
  double contents = 0;
  double rq_mse_before = 0;  // mean |z - z^|^2 under encoder and codebook in use
  double rq_mse = 0;         // under the new ones
  std::vector<CodebookFigures::Level> levels;
  std::vector<double> churn;    // [levels] share whose code differs
  std::vector<int> iterations;  // [levels]
  int reseeded = 0;             // codes that no content was nearest to, moved to a far one
  std::string sha256;           // of the new codebook's file, agreed by all
};

struct CodebookBuild {
  std::unique_ptr<Codebook> codebook;
  std::vector<int32_t> codes;  // [n, levels] of this worker's contents
  // M_l[k', k] = sum over the contents of all workers with new code k' and old code k of their
  // weights: [levels, K, K].
  std::vector<double> joint;
  BuildFigures figures;  // the same at all workers
};

// All members of `group` call it. `budget` is spent on this worker's part. Errors: the group's, the
// budget's; kInvalidArgument: no worker has a content with a weight.
[[nodiscard]] absl::StatusOr<CodebookBuild> BuildCodebook(const Codebook& current,
                                                          const ContentShard& shard,
                                                          const BuildOptions& options, Group* group,
                                                          WorkBudget* budget);

}  // namespace savior
