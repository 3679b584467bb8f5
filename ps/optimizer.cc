#include "ps/optimizer.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>

#include "common/simd.h"

// The loops vectorise because the arrays are __restrict and sqrt sets no errno (see
// CMakeLists.txt); constants are hoisted by hand. The order of operations is torch.optim's, so that
// results agree to the last bits. No fused multiply-add, so that they are equal on all machines.

namespace savior {
namespace {

// Four floats at any address; dim is a multiple of four. Written out, since a compiler must not
// reorder the sum of a row's squares on its own, and does badly with what is left.
using Four = float __attribute__((vector_size(16), aligned(4), may_alias));
SAVIOR_INLINE Four Load(const float* from) { return *reinterpret_cast<const Four*>(from); }
SAVIOR_INLINE void Store(float* to, Four value) { *reinterpret_cast<Four*>(to) = value; }
SAVIOR_INLINE Four All(float value) { return Four{value, value, value, value}; }

void Sgd(const OptimizerSpec& spec, uint32_t dim, const float* __restrict grad,
         float* __restrict weights) {
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i] + spec.weight_decay * weights[i];
    weights[i] -= spec.lr * g;
  }
}

void Adagrad(const OptimizerSpec& spec, uint32_t dim, const float* __restrict grad,
             float* __restrict weights, float* __restrict sums) {
  const float lr = spec.lr;
  const float eps = spec.eps;
  const float decay = spec.weight_decay;
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i] + decay * weights[i];
    sums[i] += g * g;
    weights[i] -= lr * (g / (std::sqrt(sums[i]) + eps));
  }
}

void RowwiseAdagrad(const OptimizerSpec& spec, uint32_t dim, const float* __restrict grad,
                    float* __restrict weights, float* __restrict sum) {
  const Four decay = All(spec.weight_decay);
  Four squares = All(0);
  for (uint32_t i = 0; i < dim; i += 4) {
    const Four g = Load(grad + i) + decay * Load(weights + i);
    squares += g * g;
  }
  *sum += ((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<float>(dim);
  const Four rate = All(spec.lr / (std::sqrt(*sum) + spec.eps));
  for (uint32_t i = 0; i < dim; i += 4) {
    const Four w = Load(weights + i);
    Store(weights + i, w - rate * (Load(grad + i) + decay * w));
  }
}

void Adam(const OptimizerSpec& spec, uint32_t dim, uint32_t updates, const float* __restrict grad,
          float* __restrict weights, float* __restrict means, float* __restrict squares) {
  const double t = updates;
  const auto rate = static_cast<float>(spec.lr / (1.0 - std::pow(double{spec.beta1}, t)));
  const auto root = static_cast<float>(std::sqrt(1.0 - std::pow(double{spec.beta2}, t)));
  const float beta1 = spec.beta1;
  const float beta2 = spec.beta2;
  const float eps = spec.eps;
  const float decay = spec.weight_decay;
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i] + decay * weights[i];
    means[i] = beta1 * means[i] + (1.0f - beta1) * g;
    squares[i] = beta2 * squares[i] + (1.0f - beta2) * g * g;
    weights[i] -= rate * (means[i] / (std::sqrt(squares[i]) / root + eps));
  }
}

void Ftrl(const OptimizerSpec& spec, uint32_t dim, const float* __restrict grad,
          float* __restrict weights, float* __restrict z, float* __restrict n) {
  const float inverse_lr = 1.0f / spec.lr;
  const float l1 = spec.l1;
  const float l2 = spec.l2;
  for (uint32_t i = 0; i < dim; ++i) {
    const float g = grad[i];
    const float root_before = std::sqrt(n[i]);
    n[i] += g * g;
    const float root = std::sqrt(n[i]);
    z[i] += g - (root - root_before) * inverse_lr * weights[i];
    const float shrunk = std::max(std::abs(z[i]) - l1, 0.0f);
    weights[i] = -std::copysign(shrunk, z[i]) / (root * inverse_lr + l2);
  }
}

}  // namespace

absl::Status ValidateOptimizer(const OptimizerSpec& spec) {
  const auto check = [](bool ok, const char* rule) {
    return ok ? absl::OkStatus()
              : absl::InvalidArgumentError(absl::StrCat("optimizer: must have ", rule));
  };
  const auto at_least_zero = [](float x) { return std::isfinite(x) && x >= 0; };
  if (spec.kind == OptimizerKind::kNone) return absl::OkStatus();
  SAVIOR_RETURN_IF_ERROR(check(std::isfinite(spec.lr) && spec.lr > 0, "lr > 0"));
  SAVIOR_RETURN_IF_ERROR(check(at_least_zero(spec.weight_decay), "weight_decay >= 0"));
  switch (spec.kind) {
    case OptimizerKind::kAdagrad:
    case OptimizerKind::kRowwiseAdagrad:
      SAVIOR_RETURN_IF_ERROR(
          check(at_least_zero(spec.initial_accumulator), "initial_accumulator >= 0"));
      return check(std::isfinite(spec.eps) && spec.eps > 0, "eps > 0");
    case OptimizerKind::kAdam:
      SAVIOR_RETURN_IF_ERROR(check(spec.beta1 >= 0 && spec.beta1 < 1, "beta1 in [0, 1)"));
      SAVIOR_RETURN_IF_ERROR(check(spec.beta2 >= 0 && spec.beta2 < 1, "beta2 in [0, 1)"));
      return check(std::isfinite(spec.eps) && spec.eps > 0, "eps > 0");
    case OptimizerKind::kFtrl:
      SAVIOR_RETURN_IF_ERROR(check(at_least_zero(spec.l1), "l1 >= 0"));
      SAVIOR_RETURN_IF_ERROR(check(at_least_zero(spec.l2), "l2 >= 0"));
      return check(std::isfinite(spec.initial_accumulator) && spec.initial_accumulator > 0,
                   "initial_accumulator > 0 for FTRL");
    default:
      return absl::OkStatus();
  }
}

void StartState(const OptimizerSpec& spec, uint32_t dim, const float* weights, float* state) {
  switch (spec.kind) {
    case OptimizerKind::kNone:
    case OptimizerKind::kSgd:
      return;
    case OptimizerKind::kAdagrad:
    case OptimizerKind::kRowwiseAdagrad:
      std::fill_n(state, StateFloats(spec.kind, dim), spec.initial_accumulator);
      return;
    case OptimizerKind::kAdam:
      std::fill_n(state, 2 * dim, 0.0f);
      return;
    case OptimizerKind::kFtrl: {
      const float curvature = std::sqrt(spec.initial_accumulator) / spec.lr + spec.l2;
      for (uint32_t i = 0; i < dim; ++i) {
        // Solves w = (sign(z) l1 - z) / curvature for z; sign(z) is -sign(w).
        const float w = weights[i];
        state[i] = w == 0.0f ? 0.0f : -(w * curvature + std::copysign(spec.l1, w));
      }
      std::fill_n(state + dim, dim, spec.initial_accumulator);
      return;
    }
  }
}

void ApplyGradient(const OptimizerSpec& spec, uint32_t dim, uint32_t updates, const float* grad,
                   float* weights, float* state) {
  switch (spec.kind) {
    case OptimizerKind::kNone:
      return;
    case OptimizerKind::kSgd:
      return Sgd(spec, dim, grad, weights);
    case OptimizerKind::kAdagrad:
      return Adagrad(spec, dim, grad, weights, state);
    case OptimizerKind::kRowwiseAdagrad:
      return RowwiseAdagrad(spec, dim, grad, weights, state);
    case OptimizerKind::kAdam:
      return Adam(spec, dim, updates, grad, weights, state, state + dim);
    case OptimizerKind::kFtrl:
      return Ftrl(spec, dim, grad, weights, state, state + dim);
  }
}

}  // namespace savior
