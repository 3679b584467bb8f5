#include "ps/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/random.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

// One row under one optimizer.
struct Row {
  explicit Row(const OptimizerSpec& optimizer, std::vector<float> start)
      : spec(optimizer),
        weights(std::move(start)),
        state(StateFloats(spec.kind, static_cast<uint32_t>(weights.size()))) {
    StartState(spec, dim(), weights.data(), state.data());
  }
  uint32_t dim() const { return static_cast<uint32_t>(weights.size()); }
  void Step(const std::vector<float>& grad) {
    ApplyGradient(spec, dim(), ++updates, grad.data(), weights.data(), state.data());
  }

  OptimizerSpec spec;
  std::vector<float> weights;
  std::vector<float> state;
  uint32_t updates = 0;
};

// The formulas of optimizer.h, per element, in double. `mean_square`: of g', for the rowwise one.
void StepInDouble(const OptimizerSpec& spec, int t, double grad, double mean_square, double* w,
                  double* a, double* b) {
  const double g = grad + spec.weight_decay * *w;
  switch (spec.kind) {
    case OptimizerKind::kSgd:
      *w -= spec.lr * g;
      return;
    case OptimizerKind::kAdagrad:
    case OptimizerKind::kRowwiseAdagrad:
      *a += spec.kind == OptimizerKind::kAdagrad ? g * g : mean_square;
      *w -= spec.lr * g / (std::sqrt(*a) + spec.eps);
      return;
    case OptimizerKind::kAdam:
      *a = spec.beta1 * *a + (1.0 - spec.beta1) * g;
      *b = spec.beta2 * *b + (1.0 - spec.beta2) * g * g;
      *w -= spec.lr * (*a / (1 - std::pow(spec.beta1, t))) /
            (std::sqrt(*b / (1 - std::pow(spec.beta2, t))) + spec.eps);
      return;
    case OptimizerKind::kFtrl: {
      const double n = *b + grad * grad;
      *a += grad - (std::sqrt(n) - std::sqrt(*b)) / spec.lr * *w;
      *b = n;
      *w = std::abs(*a) <= spec.l1
               ? 0
               : (std::copysign(spec.l1, *a) - *a) / (std::sqrt(n) / spec.lr + spec.l2);
      return;
    }
    case OptimizerKind::kNone:
      return;
  }
}

TEST(Optimizer, SgdByHand) {
  Row row({.kind = OptimizerKind::kSgd, .lr = 0.5f, .weight_decay = 0.25f}, {4, 0, -4, 1});
  row.Step({1, 2, 3, 0});
  EXPECT_EQ(row.weights, (std::vector<float>{3, -1, -5, 0.875f}));
}

TEST(Optimizer, AdagradByHand) {
  Row row({.kind = OptimizerKind::kAdagrad, .lr = 1, .eps = 1e-20f, .initial_accumulator = 9},
          {0, 0, 1, 1});
  row.Step({4, 0, -4, 4});
  // a = 25, step = 4 / 5
  EXPECT_EQ(row.weights, (std::vector<float>{-0.8f, 0, 1.8f, 1 - 0.8f}));
  EXPECT_EQ(row.state, (std::vector<float>{25, 9, 25, 25}));
}

TEST(Optimizer, RowwiseAdagradByHand) {
  Row row({.kind = OptimizerKind::kRowwiseAdagrad, .lr = 1, .eps = 1e-20f}, {0, 0, 0, 0});
  row.Step({4, 0, 0, 0});
  // a = 16 / 4, step = 4 / 2
  EXPECT_EQ(row.weights, (std::vector<float>{-2, 0, 0, 0}));
  EXPECT_EQ(row.state, (std::vector<float>{4}));
}

TEST(Optimizer, AdamsFirstStepIsTheRate) {
  // Bias correction makes m / sqrt(v) of the first step the gradient's sign.
  Row row({.kind = OptimizerKind::kAdam, .lr = 0.125f}, {0, 0, 0, 0});
  row.Step({3, -0.01f, 100, 0});
  EXPECT_NEAR(row.weights[0], -0.125, 1e-6);
  EXPECT_NEAR(row.weights[1], 0.125, 1e-6);
  EXPECT_NEAR(row.weights[2], -0.125, 1e-6);
  EXPECT_EQ(row.weights[3], 0);
}

TEST(Optimizer, FtrlsL1KeepsSmallWeightsAtZero) {
  Row row({.kind = OptimizerKind::kFtrl, .lr = 1, .initial_accumulator = 1, .l1 = 0.5f},
          {0, 0, 0, 0});
  row.Step({0.4f, -0.4f, std::sqrt(3.0f), 0});
  EXPECT_EQ(row.weights[0], 0);
  EXPECT_EQ(row.weights[1], 0);
  EXPECT_NEAR(row.weights[2], -(std::sqrt(3.0) - 0.5) / 2, 1e-6);  // n = 1 + 3
}

TEST(Optimizer, FtrlStartsFromItsInitialWeights) {
  Row row({.kind = OptimizerKind::kFtrl,
           .lr = 0.1f,
           .initial_accumulator = 0.1f,
           .l1 = 0.01f,
           .l2 = 0.1f},
          {0.02f, -0.03f, 0, 1});
  row.Step({0, 0, 0, 0});  // no gradient, no change
  EXPECT_NEAR(row.weights[0], 0.02, 1e-7);
  EXPECT_NEAR(row.weights[1], -0.03, 1e-7);
  EXPECT_EQ(row.weights[2], 0);
  EXPECT_NEAR(row.weights[3], 1, 1e-6);
}

TEST(Optimizer, FollowsTheFormulasInDoubleOverManySteps) {
  Random random(7);
  for (const OptimizerKind kind :
       {OptimizerKind::kSgd, OptimizerKind::kAdagrad, OptimizerKind::kRowwiseAdagrad,
        OptimizerKind::kAdam, OptimizerKind::kFtrl}) {
    for (const uint32_t dim : {4u, 20u, 512u}) {
      OptimizerSpec spec = Optimizer(kind, 0.05f);
      spec.initial_accumulator = 0.1f;
      spec.l1 = 0.01f;
      spec.l2 = 0.02f;
      spec.weight_decay = kind == OptimizerKind::kFtrl ? 0.0f : 0.01f;
      Row row(spec, RandomFloats(dim, &random));
      std::vector<double> w(row.weights.begin(), row.weights.end());
      std::vector<double> a(dim, kind == OptimizerKind::kAdam ? 0 : spec.initial_accumulator);
      std::vector<double> b(dim, kind == OptimizerKind::kFtrl ? spec.initial_accumulator : 0);
      if (kind == OptimizerKind::kFtrl) a.assign(row.state.begin(), row.state.begin() + dim);
      for (int t = 1; t <= 50; ++t) {
        const std::vector<float> grad = RandomFloats(dim, &random);
        double mean_square = 0;
        for (uint32_t i = 0; i < dim; ++i) {
          const double g = grad[i] + spec.weight_decay * w[i];
          mean_square += g * g / dim;
        }
        row.Step(grad);
        for (uint32_t i = 0; i < dim; ++i) {
          StepInDouble(spec, t, grad[i], mean_square, &w[i], &a[i], &b[i]);
        }
      }
      for (uint32_t i = 0; i < dim; ++i) {
        ASSERT_NEAR(row.weights[i], w[i], 2e-5)
            << "optimizer " << static_cast<int>(kind) << ", dim " << dim << ", element " << i;
      }
    }
  }
}

TEST(Optimizer, RefusesFieldsOutOfBounds) {
  const auto refused = [](OptimizerKind kind, auto change) {
    OptimizerSpec spec = Optimizer(kind);
    EXPECT_TRUE(ValidateOptimizer(spec).ok());
    change(&spec);
    return absl::IsInvalidArgument(ValidateOptimizer(spec));
  };
  using S = OptimizerSpec;
  EXPECT_TRUE(refused(OptimizerKind::kSgd, [](S* s) { s->lr = 0; }));
  EXPECT_TRUE(refused(OptimizerKind::kSgd, [](S* s) { s->lr = std::nanf(""); }));
  EXPECT_TRUE(refused(OptimizerKind::kSgd, [](S* s) { s->weight_decay = -1; }));
  EXPECT_TRUE(refused(OptimizerKind::kAdagrad, [](S* s) { s->eps = 0; }));
  EXPECT_TRUE(refused(OptimizerKind::kAdagrad, [](S* s) { s->initial_accumulator = -1; }));
  EXPECT_TRUE(refused(OptimizerKind::kAdam, [](S* s) { s->beta1 = 1; }));
  EXPECT_TRUE(refused(OptimizerKind::kAdam, [](S* s) { s->beta2 = -0.1f; }));
  EXPECT_TRUE(refused(OptimizerKind::kFtrl, [](S* s) { s->initial_accumulator = 0; }));
  EXPECT_TRUE(refused(OptimizerKind::kFtrl, [](S* s) { s->l1 = -1; }));
}

}  // namespace
}  // namespace savior
