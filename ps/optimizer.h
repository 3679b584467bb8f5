// Optimizers of single rows. Pure functions, thread-safe.
//
// w: weights, g: gradient, t: the row's number of updates with this one (not the training step: an
// embedding row is updated when its key is seen). g' = g + weight_decay * w. Elementwise:
//
//   kSgd             w -= lr g'
//   kAdagrad         a += g'^2
//                    w -= lr g' / (sqrt(a) + eps)
//   kRowwiseAdagrad  as kAdagrad with one a per row: a += mean(g'^2)
//   kAdam            m = beta1 m + (1 - beta1) g'
//                    v = beta2 v + (1 - beta2) g'^2
//                    w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//   kFtrl            z += g - (sqrt(n + g^2) - sqrt(n)) / lr * w
//                    n += g^2
//                    w = |z| <= l1 ? 0 : (sign(z) l1 - z) / (sqrt(n) / lr + l2)
//
// a and n start at initial_accumulator, m and v at 0. kSgd, kAdagrad (lr_decay 0) and kAdam are
// torch.optim's, kRowwiseAdagrad is FBGEMM's. kFtrl is Algorithm 1 of McMahan et al. 2013, whose
// beta is our initial n; its z starts where the last line gives the initial w, so that a random
// start is not thrown away by the first update; it takes no weight_decay, l2 being its own.
//
// State, [StateFloats] (common/store.h), in this order:
//   kAdagrad a [dim]; kRowwiseAdagrad a [1]; kAdam m [dim], v [dim]; kFtrl z [dim], n [dim].
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/store.h"

namespace savior {

// kInvalidArgument names the field that is out of bounds.
[[nodiscard]] absl::Status ValidateOptimizer(const OptimizerSpec& spec);

// The state of a row that starts with `weights` [dim] into `state` [StateFloats].
void StartState(const OptimizerSpec& spec, uint32_t dim, const float* weights, float* state);

// One step of `weights` [dim] and `state` [StateFloats] by `grad` [dim]; the three do not overlap.
// `updates`: t above,
// >= 1. Not for kNone.
void ApplyGradient(const OptimizerSpec& spec, uint32_t dim, uint32_t updates, const float* grad,
                   float* weights, float* state);

}  // namespace savior
