#include "worker/dense_weights.h"

#include <absl/strings/numbers.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "common/random.h"
#include "common/simd.h"

namespace savior {
namespace {

SAVIOR_SIMD void AdamKernel(float* __restrict w, float* __restrict m, float* __restrict v,
                            const float* __restrict g, int64_t n, float beta1, float beta2,
                            float rate, float v_scale, float eps, float shrink) {
  for (int64_t i = 0; i < n; ++i) {
    m[i] = beta1 * m[i] + (1.0f - beta1) * g[i];
    v[i] = beta2 * v[i] + (1.0f - beta2) * g[i] * g[i];
    w[i] = shrink * w[i] - rate * m[i] / (std::sqrt(v[i] * v_scale) + eps);
  }
}

constexpr const char* kMoments[] = {"adam.m/", "adam.v/"};

}  // namespace

size_t DenseWeights::Add(std::string name, std::vector<int64_t> shape, double bound,
                         uint64_t seed) {
  int64_t size = 1;
  for (const int64_t length : shape) size *= length;
  const auto offset = static_cast<int64_t>(weights_.size());
  Random random(seed, parameters_.size());
  for (int64_t i = 0; i < size; ++i) {
    weights_.push_back(static_cast<float>((2.0 * random.Uniform() - 1.0) * bound));
  }
  parameters_.push_back({std::move(name), std::move(shape), offset, size});
  for (auto* array : {&gradients_, &m_, &v_}) array->resize(weights_.size());
  return parameters_.size() - 1;
}

void DenseWeights::ZeroGradients() { std::ranges::fill(gradients_, 0.0f); }

void DenseWeights::AdamStep(const AdamOptions& o) {
  ++steps_;
  const double t = static_cast<double>(steps_);
  const double rate = o.lr / (1.0 - std::pow(o.beta1, t));
  const double v_scale = 1.0 / (1.0 - std::pow(o.beta2, t));
  AdamKernel(weights_.data(), m_.data(), v_.data(), gradients_.data(),
             static_cast<int64_t>(weights_.size()), static_cast<float>(o.beta1),
             static_cast<float>(o.beta2), static_cast<float>(rate), static_cast<float>(v_scale),
             static_cast<float>(o.eps), static_cast<float>(1.0 - o.lr * o.weight_decay));
}

uint64_t DenseWeights::Digest() const {
  uint64_t digest = static_cast<uint64_t>(steps_);
  for (const auto* array : {&weights_, &m_, &v_}) {
    digest = XXH3_64bits_withSeed(array->data(), array->size() * sizeof(float), digest);
  }
  return digest;
}

TensorFile DenseWeights::Save() const {
  TensorFile file;
  file.metadata["adam.steps"] = std::to_string(steps_);
  for (const Parameter& p : parameters_) {
    const auto slice = [&p](const std::vector<float>& all) {
      return HostTensor{p.shape, {all.begin() + p.offset, all.begin() + p.offset + p.size}};
    };
    file.tensors[p.name] = slice(weights_);
    file.tensors[kMoments[0] + p.name] = slice(m_);
    file.tensors[kMoments[1] + p.name] = slice(v_);
  }
  return file;
}

absl::Status DenseWeights::Load(const TensorFile& file) {
  if (file.tensors.size() != 3 * parameters_.size()) {
    return absl::DataLossError(
        fmt::format("{} tensors, expected {} (another model.arm or version?)", file.tensors.size(),
                    3 * parameters_.size()));
  }
  const auto steps = file.metadata.find("adam.steps");
  if (steps == file.metadata.end() || !absl::SimpleAtoi(steps->second, &steps_) || steps_ < 0) {
    return absl::DataLossError("metadata adam.steps is missing or not a number");
  }
  for (const Parameter& p : parameters_) {
    const std::pair<std::string, std::vector<float>*> slices[] = {
        {p.name, &weights_}, {kMoments[0] + p.name, &m_}, {kMoments[1] + p.name, &v_}};
    for (const auto& [name, all] : slices) {
      const auto found = file.tensors.find(name);
      if (found == file.tensors.end() || found->second.shape != p.shape) {
        return absl::DataLossError(
            fmt::format("tensor {}: missing or not of shape [{}]", name, fmt::join(p.shape, ", ")));
      }
      std::ranges::copy(found->second.data, all->begin() + p.offset);
    }
  }
  return absl::OkStatus();
}

}  // namespace savior
