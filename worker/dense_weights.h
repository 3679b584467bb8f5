// The dense weights of a model in one flat array, with their gradients and Adam state beside them:
// one buffer to allreduce, one to digest, one to commit.
//
// No LibTorch: a model wraps slices of weights() and gradients() as tensors. Single-threaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/tensor_file.h"

namespace savior {

// Decoupled weight decay (Loshchilov & Hutter 2019):
//   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   w -= lr * (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay * w)
struct AdamOptions {
  double lr = 1e-3;  // > 0
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
};

class DenseWeights {
 public:
  struct Parameter {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset = 0;  // into the flat arrays
    int64_t size = 0;
  };

  // Adds a parameter, uniform in [-bound, bound] by (seed, its index): not dependent on what else
  // is there later. Before the first weights() only. Returns its index.
  size_t Add(std::string name, std::vector<int64_t> shape, double bound, uint64_t seed);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  std::vector<float>& weights() { return weights_; }
  const std::vector<float>& weights() const { return weights_; }
  std::vector<float>& gradients() { return gradients_; }

  void ZeroGradients();
  void AdamStep(const AdamOptions& options);
  int64_t steps() const { return steps_; }

  // Of weights, moments and steps(): the same exactly where all their bits are.
  uint64_t Digest() const;

  // Weights under their names, moments under "adam.m/<name>" and "adam.v/<name>".
  TensorFile Save() const;
  // kDataLoss if names or shapes are not exactly those of this model (the first difference is
  // named).
  [[nodiscard]] absl::Status Load(const TensorFile& file);

 private:
  std::vector<Parameter> parameters_;
  std::vector<float> weights_, gradients_, m_, v_;
  int64_t steps_ = 0;
};

}  // namespace savior
