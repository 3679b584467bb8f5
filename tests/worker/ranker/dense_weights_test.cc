#include "worker/dense_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "worker/model/device_arrays.h"

namespace savior {
namespace {

using testing::HasSubstr;

DenseWeights TwoParameters(uint64_t seed) {
  DenseWeights dense;
  dense.Add("a", {2, 3}, 0.5, seed);
  dense.Add("b", {4}, 0.1, seed);
  return dense;
}

TEST(DenseWeights, InitialWeightsAreBoundedSeededAndIndependentOfLaterParameters) {
  DenseWeights dense = TwoParameters(1), alone;
  alone.Add("a", {2, 3}, 0.5, 1);
  ASSERT_EQ(dense.weights().size(), 10u);
  for (size_t i = 0; i < 10; ++i) EXPECT_LE(std::abs(dense.weights()[i]), i < 6 ? 0.5f : 0.1f);
  EXPECT_TRUE(std::equal(alone.weights().begin(), alone.weights().end(), dense.weights().begin()));
  EXPECT_NE(TwoParameters(2).weights(), dense.weights());
}

TEST(DenseWeights, AdamEqualsLibTorchs) {
  DenseWeights dense = TwoParameters(3);
  AdamOptions options;
  options.lr = 0.01;
  options.weight_decay = 0.1;
  at::Tensor theirs = at::from_blob(dense.weights().data(), {10}).clone().requires_grad_(true);
  torch::optim::AdamW adam(
      {theirs}, torch::optim::AdamWOptions(options.lr).eps(options.eps).weight_decay(0.1));
  torch::manual_seed(5);
  for (int step = 0; step < 20; ++step) {
    const at::Tensor grad = at::randn({10});
    std::copy_n(grad.data_ptr<float>(), 10, dense.gradients().begin());
    theirs.mutable_grad() = grad;
    dense.AdamStep(options);
    adam.step();
  }
  for (int i = 0; i < 10; ++i) EXPECT_NEAR(dense.weights()[i], theirs[i].item<float>(), 2e-6);
}

TEST(DenseWeights, SavedStateGoesOnBitForBit) {
  DenseWeights a = TwoParameters(3), b = TwoParameters(4);
  const auto step = [](DenseWeights& dense) {
    for (size_t i = 0; i < 10; ++i) dense.gradients()[i] = 0.1f * static_cast<float>(i) - 0.3f;
    dense.AdamStep({});
  };
  step(a);
  ASSERT_TRUE(b.Load(a.Save()).ok());
  EXPECT_EQ(b.steps(), 1);
  step(a);
  step(b);
  EXPECT_EQ(a.weights(), b.weights());
}

TEST(DenseWeights, OnADeviceStepAsOnTheHostAndSaveTheSameState) {
  DenseWeights host = TwoParameters(3), placed = TwoParameters(3);
  placed.PlaceOn(std::make_unique<DeviceArrays>(at::kCPU, 10));
  EXPECT_EQ(placed.weights(), host.weights());
  AdamOptions options;
  options.weight_decay = 0.1;
  const auto steps = [&](int n) {
    for (int step = 0; step < n; ++step) {
      const at::Tensor grad = at::randn({10});
      const float* g = grad.data_ptr<float>();
      std::copy_n(g, 10, host.gradients().begin());
      std::copy_n(g, 10, placed.gradient_memory().begin());
      host.AdamStep(options);
      placed.AdamStep(options);
    }
    for (size_t i = 0; i < 10; ++i) EXPECT_NEAR(placed.weights()[i], host.weights()[i], 1e-6);
  };
  torch::manual_seed(5);
  steps(20);
  // Saved there and loaded here, and the other way round.
  DenseWeights again = TwoParameters(4);
  ASSERT_TRUE(again.Load(placed.Save()).ok());
  EXPECT_EQ(again.weights(), placed.weights());
  EXPECT_EQ(again.steps(), 20);
  ASSERT_TRUE(placed.Load(host.Save()).ok());
  EXPECT_EQ(placed.weights(), host.weights());
  steps(20);
  placed.ZeroGradients();
  EXPECT_TRUE(std::ranges::all_of(placed.gradients(), [](float g) { return g == 0.0f; }));
}

TEST(DenseWeights, LoadRefusesAnotherModel) {
  DenseWeights a = TwoParameters(1), other;
  other.Add("a", {3, 2}, 0.5, 1);
  other.Add("b", {4}, 0.1, 1);
  const absl::Status shape = a.Load(other.Save());
  EXPECT_TRUE(absl::IsDataLoss(shape));
  EXPECT_THAT(std::string(shape.message()), HasSubstr("tensor a"));
  TensorFile fewer = a.Save();
  fewer.tensors.erase("b");
  EXPECT_TRUE(absl::IsDataLoss(a.Load(fewer)));
  TensorFile no_steps = a.Save();
  no_steps.metadata.clear();
  EXPECT_TRUE(absl::IsDataLoss(a.Load(no_steps)));
}

}  // namespace
}  // namespace savior
