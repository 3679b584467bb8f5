// What an alignment block adds to z, before and after a change of codes, and rows that keep it.
//
//   D_i = FusionMLP([A_1[c_i1]; ...; A_L[c_iL]; rest_i])    rest: rows of prefixes, own vector
//
// After a change of codebook D'_i is the same with the new codes and rows. Distillation moves the
// new rows, and nothing else, so that sum_i w_i |D'_i - D_i|^2 becomes small: Adam over a sample of
// contents, no impressions (docs/refresh.md). Where the encoder has changed as well, what is to
// stay is z + D, so that D_i + z_i - z'_i takes the place of D_i.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/tensor_file.h"

namespace savior {

// The fusion MLP as it stands: no biases. Without weights D_i is the concatenation itself (arms
// that use code rows directly).
struct Fusion {
  size_t dim = 0;
  size_t parts = 0;        // levels, and those of `rest`
  size_t hidden = 0;       // 0: no weights
  std::vector<float> in;   // [hidden, parts * dim]
  std::vector<float> out;  // [dim, hidden]
};

// From a ranker's dense weights. kDataLoss: a weight is missing or of another shape.
[[nodiscard]] absl::StatusOr<Fusion> FusionOf(const TensorFile& dense, size_t dim, size_t parts);

// Rows of the align table by (level, code).
struct AlignRows {
  size_t codes = 0;         // K
  std::vector<float> rows;  // [levels * K, dim]
};

struct AlignSample {
  size_t levels = 0;
  std::vector<int32_t> before, now;  // [n, levels] codes
  // [n, (parts - levels) * dim] what else the fusion MLP reads, a content's own vector shrunk as
  // the ranker shrinks it; or empty. Distillation leaves it alone.
  std::vector<float> rest;
  std::vector<float> rest_now;  // the same after the change; empty: it stays
  std::vector<float> z_change;  // [n, dim] z - z'; or empty: none
  std::vector<double> weights;  // [n] > 0

  size_t size() const { return weights.size(); }
};

struct DistilOptions {
  int steps = 300;
  double lr = 5e-3;
  int batch = 2048;
  uint64_t seed = 0;
};

// Moves `*now`; deterministic for a given number of threads. kInternal: LibTorch failed.
[[nodiscard]] absl::Status Distil(const Fusion& fusion, const AlignRows& before,
                                  const AlignSample& sample, const DistilOptions& options,
                                  AlignRows* now, const std::function<absl::Status()>& breathe);

// 1 - sum w |D' - T|^2 / sum w |T|^2, over the sample, T what distillation aims at (D, or D + z -
// z'): 1 if nothing is lost, 0 for rows of zeros. 1 if all T are zero.
double PreservedR2(const Fusion& fusion, const AlignRows& before, const AlignRows& now,
                   const AlignSample& sample);

}  // namespace savior
