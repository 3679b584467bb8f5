// The flat arrays of dense weights on a device, as tensors.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>

#include "worker/dense_weights.h"

namespace savior {

// Single-threaded; works on the device's current stream. The CPU will do as device, for tests.
class DeviceArrays final : public DenseArrays {
 public:
  DeviceArrays(at::Device device, int64_t size);

  std::span<float> weights();  // [n], in the device's memory

  std::span<float> gradients() override;
  void ZeroGradients() override;
  void AdamStep(const AdamFactors& factors) override;
  void Store(std::span<const float> weights, std::span<const float> m,
             std::span<const float> v) override;
  void FetchWeights(std::span<float> weights) const override;
  void FetchGradients(std::span<float> gradients) const override;
  void FetchMoments(std::span<float> m, std::span<float> v) const override;

 private:
  at::Tensor weights_, gradients_, m_, v_;
};

}  // namespace savior
