// Matrix products for inference: weights are laid out once, then many small inputs go through them.
//
// A sum of products reads each operand where it lies, so that a layer over several values side by
// side needs no copy of them. A row's result does not depend on the rows beside it. Fused
// multiply-add where the processor has it: equal bits on equal instruction sets only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/tensor_file.h"

namespace savior {

// Columns [begin, begin + width) of a weight [outputs, inputs]. Immutable.
struct PackedWeight {
  static constexpr int64_t kPanel = 16;  // outputs that are computed together

  PackedWeight(const HostTensor& weight, int64_t begin, int64_t width);

  static int64_t Panels(int64_t outputs) { return (outputs + kPanel - 1) / kPanel; }

  int64_t width = 0;
  std::vector<float> values;  // [Panels(outputs), width, kPanel]; zeros beyond the last output
};

struct ProductTerm {
  const float* x = nullptr;  // [rows, width], rows `stride` apart
  int64_t stride = 0;
  int64_t width = 0;
  const float* weight = nullptr;  // as PackedWeight::values
};

// y [rows, outputs] = bias [outputs] + sum over terms of x W^T. `bias` null: zeros. Reentrant, on
// the calling thread.
void SumProducts(std::span<const ProductTerm> terms, const float* bias, int64_t rows,
                 int64_t outputs, float* y);

}  // namespace savior
