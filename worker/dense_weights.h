// The dense weights of a model in one flat array, with their gradients and Adam state beside them:
// one buffer to allreduce, one to digest, one to commit.
//
// No LibTorch: a model wraps slices of weights() and gradients() as tensors. Single-threaded.
//
// The arrays lie in host memory, or, after PlaceOn, in a device's (DenseArrays).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
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

// What Adam needs of a step, as float32: worked out once, for every kind of memory.
struct AdamFactors {
  float beta1, beta2, eps;
  float rate;     // lr / (1 - beta1^t)
  float v_scale;  // 1 / (1 - beta2^t)
  float shrink;   // 1 - lr * decay
};
AdamFactors FactorsOf(const AdamOptions& options, int64_t step);

// The flat arrays in another memory than the host's. All calls are ordered after what was asked of
// the device before.
class DenseArrays {
 public:
  virtual ~DenseArrays() = default;
  // In the device's memory; [n] as the host's.
  virtual std::span<float> gradients() = 0;
  virtual void ZeroGradients() = 0;
  virtual void AdamStep(const AdamFactors& factors) = 0;
  // Whole arrays, [n]; they wait until the values are there.
  virtual void Store(std::span<const float> weights, std::span<const float> m,
                     std::span<const float> v) = 0;
  virtual void FetchWeights(std::span<float> weights) const = 0;
  virtual void FetchGradients(std::span<float> gradients) const = 0;
  virtual void FetchMoments(std::span<float> m, std::span<float> v) const = 0;
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

  // From now on the arrays lie in `arrays`, which gets the values that are here. Once, after the
  // last Add.
  void PlaceOn(std::unique_ptr<DenseArrays> arrays);

  const std::vector<Parameter>& parameters() const { return parameters_; }

  // In host memory. Of arrays on a device: a copy, made by the call, and changes to it are lost.
  std::vector<float>& weights();
  const std::vector<float>& weights() const;
  std::vector<float>& gradients();

  // Where the gradients lie, host memory or the device's: for an Allreduce over that memory.
  std::span<float> gradient_memory();

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
  void Fetch() const;  // weights and moments

  std::vector<Parameter> parameters_;
  // With device_, only room for what is fetched.
  mutable std::vector<float> weights_, m_, v_;
  std::vector<float> gradients_;
  std::unique_ptr<DenseArrays> device_;  // null: the arrays are those above
  int64_t steps_ = 0;
};

}  // namespace savior
