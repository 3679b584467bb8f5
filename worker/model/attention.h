// Bi-directional target attention as one differentiable operation (kernels and formulas:
// attention_kernel.h).
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "worker/model/attention_kernel.h"

namespace savior {

// float32 CPU tensors, row-major; shapes as in AttentionInputs. With shape.modal == 0 the modal
// tensors are undefined.
struct AttentionTensors {
  at::Tensor query_modal, history_modal, query, history, query_hidden, history_hidden, product,
      score;
};

// -> [N, shape.out()].
at::Tensor BiTargetAttention(std::shared_ptr<const AttentionShape> shape,
                             const AttentionTensors& in);

// The same in plain tensor operations, request by request: slow, and the test's reference.
at::Tensor BiTargetAttentionReference(const AttentionShape& shape, const AttentionTensors& in);

}  // namespace savior
