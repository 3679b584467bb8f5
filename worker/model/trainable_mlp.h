// Where host arrays and LibTorch meet: arrays to tensors and back, and an Mlp as parameters of
// autograd.
#pragma once

#include <torch/torch.h>

#include <span>
#include <vector>

#include "worker/model/dense.h"

namespace savior {

// A copy: LibTorch's own memory is aligned, so results do not depend on where the host array lies.
inline at::Tensor FromHost(std::span<const float> data, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  TORCH_CHECK(static_cast<size_t>(tensor.numel()) == data.size(), "FromHost: ", data.size(),
              " values for ", shape);
  std::copy(data.begin(), data.end(), tensor.data_ptr<float>());
  return tensor;
}

inline std::vector<float> ToHost(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kFloat).contiguous();
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

// Single-threaded.
class TrainableMlp {
 public:
  explicit TrainableMlp(const Mlp& start)
      : w1_(FromHost(start.w1, {start.inputs, start.hidden}).requires_grad_()),
        b1_(FromHost(start.b1, {start.hidden}).requires_grad_()),
        w2_(FromHost(start.w2, {start.hidden, start.outputs}).requires_grad_()),
        b2_(FromHost(start.b2, {start.outputs}).requires_grad_()) {}

  // x [n, inputs] -> [n, outputs].
  at::Tensor Forward(const at::Tensor& x) const {
    return at::addmm(b2_, at::silu(at::addmm(b1_, x, w1_)), w2_);
  }

  std::vector<at::Tensor> parameters() const { return {w1_, b1_, w2_, b2_}; }

  Mlp Take() const {
    return {.inputs = static_cast<int>(w1_.size(0)),
            .hidden = static_cast<int>(w1_.size(1)),
            .outputs = static_cast<int>(w2_.size(1)),
            .w1 = ToHost(w1_),
            .b1 = ToHost(b1_),
            .w2 = ToHost(w2_),
            .b2 = ToHost(b2_)};
  }

 private:
  at::Tensor w1_, b1_, w2_, b2_;
};

}  // namespace savior
