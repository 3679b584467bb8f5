// A step's arrays as tensors, where the ranker computes.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>

#include "worker/model/pair_attention.h"
#include "worker/step_inputs.h"

namespace savior {

// Shapes and meaning as in StepInputs, whose names these are. Tables that the step does not touch
// and z of a model without content are undefined.
struct StepTensors {
  // Rows, [n, dim]; leaves when learning.
  at::Tensor user, item, feature, align, content_vector, prefix;
  at::Tensor z;  // [C, dim]

  at::Tensor user_of_row, item_of_row, item_of_position, content_of_item;
  at::Tensor features_of_item;     // [features, U or candidates]
  at::Tensor context_of_row;       // [context features, N]
  at::Tensor codes_of_content;     // [levels, C]
  at::Tensor prefixes_of_content;  // [prefixes, C]
  at::Tensor numerics;             // [N, numerics]
  at::Tensor clicks, conversions;  // [N]

  // On the device path only: of the request of each row, [N]; and what follows from them.
  at::Tensor history_begin, history_length;
  Pairs pairs;

  // But `pairs`, which are made on the device.
  std::array<at::Tensor*, 20> all();
};

struct StepShape {
  int64_t id_dim = 0, feature_dim = 0, modal = 0;  // lengths of rows
  int64_t features = 0, context = 0, numerics = 0, levels = 0, prefixes = 0;
  bool content = false;  // the model reads z
};

// Views of `in`'s arrays, which must outlive them.
StepTensors HostTensors(const StepInputs& in, const StepShape& shape);

}  // namespace savior
