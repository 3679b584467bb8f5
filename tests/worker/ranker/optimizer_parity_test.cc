// The shards' row optimizers against LibTorch's own, where it has one.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <memory>
#include <vector>

#include "ps/optimizer.h"

namespace savior {
namespace {

using MakeOptimizer =
    std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<at::Tensor>)>;

void ExpectParity(const OptimizerSpec& spec, const MakeOptimizer& make) {
  constexpr uint32_t kDim = 12;
  torch::manual_seed(11);
  const at::Tensor start = at::randn({kDim});
  std::vector<float> weights(start.data_ptr<float>(), start.data_ptr<float>() + kDim);
  std::vector<float> state(StateFloats(spec.kind, kDim));
  StartState(spec, kDim, weights.data(), state.data());
  const at::Tensor theirs = start.clone().requires_grad_(true);
  const auto optimizer = make({theirs});
  for (uint32_t step = 1; step <= 30; ++step) {
    const at::Tensor grad = at::randn({kDim});
    ApplyGradient(spec, kDim, step, grad.data_ptr<float>(), weights.data(), state.data());
    theirs.mutable_grad() = grad;
    optimizer->step();
  }
  for (uint32_t i = 0; i < kDim; ++i) EXPECT_NEAR(weights[i], theirs[i].item<float>(), 1e-5) << i;
}

TEST(OptimizerParity, Sgd) {
  OptimizerSpec spec;
  spec.kind = OptimizerKind::kSgd;
  spec.lr = 0.05f;
  spec.weight_decay = 0.01f;
  ExpectParity(spec, [](std::vector<at::Tensor> parameters) {
    return std::make_unique<torch::optim::SGD>(parameters,
                                               torch::optim::SGDOptions(0.05).weight_decay(0.01));
  });
}

TEST(OptimizerParity, Adagrad) {
  OptimizerSpec spec;
  spec.kind = OptimizerKind::kAdagrad;
  spec.lr = 0.05f;
  spec.eps = 1e-8f;
  spec.initial_accumulator = 0.1f;
  spec.weight_decay = 0.01f;
  ExpectParity(spec, [](std::vector<at::Tensor> parameters) {
    return std::make_unique<torch::optim::Adagrad>(
        parameters,
        torch::optim::AdagradOptions(0.05).eps(1e-8).initial_accumulator_value(0.1).weight_decay(
            0.01));
  });
}

TEST(OptimizerParity, Adam) {
  OptimizerSpec spec;
  spec.kind = OptimizerKind::kAdam;
  spec.lr = 0.05f;
  spec.eps = 1e-6f;
  ExpectParity(spec, [](std::vector<at::Tensor> parameters) {
    return std::make_unique<torch::optim::Adam>(parameters,
                                                torch::optim::AdamOptions(0.05).eps(1e-6));
  });
}

}  // namespace
}  // namespace savior
