#include "worker/model/device_arrays.h"

#include <c10/core/GradMode.h>

namespace savior {
namespace {

at::Tensor Host(std::span<const float> values) {
  return at::from_blob(const_cast<float*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::kFloat);
}

std::span<float> Span(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

DeviceArrays::DeviceArrays(at::Device device, int64_t size) {
  for (at::Tensor* array : {&weights_, &gradients_, &m_, &v_}) {
    *array = at::zeros({size}, at::TensorOptions(at::kFloat).device(device));
  }
}

std::span<float> DeviceArrays::weights() { return Span(weights_); }

std::span<float> DeviceArrays::gradients() { return Span(gradients_); }

void DeviceArrays::ZeroGradients() { gradients_.zero_(); }

// The kernel of dense_weights.cc, array by array. Seven passes: a few MB of dense weights in a
// GPU's memory do not ask for a fused one.
void DeviceArrays::AdamStep(const AdamFactors& f) {
  const c10::NoGradGuard no_grad;
  m_.mul_(f.beta1).add_(gradients_, 1.0f - f.beta1);
  v_.mul_(f.beta2).addcmul_(gradients_, gradients_, 1.0f - f.beta2);
  const at::Tensor root = (v_ * f.v_scale).sqrt_().add_(f.eps);
  weights_.mul_(f.shrink).addcdiv_(m_, root, -f.rate);
}

void DeviceArrays::Store(std::span<const float> weights, std::span<const float> m,
                         std::span<const float> v) {
  const c10::NoGradGuard no_grad;
  weights_.copy_(Host(weights));
  m_.copy_(Host(m));
  v_.copy_(Host(v));
}

void DeviceArrays::FetchWeights(std::span<float> weights) const { Host(weights).copy_(weights_); }

void DeviceArrays::FetchGradients(std::span<float> gradients) const {
  Host(gradients).copy_(gradients_);
}

void DeviceArrays::FetchMoments(std::span<float> m, std::span<float> v) const {
  Host(m).copy_(m_);
  Host(v).copy_(v_);
}

}  // namespace savior
