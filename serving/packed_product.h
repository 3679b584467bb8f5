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
#include "serving/panel.h"

namespace savior {

// Columns [begin, begin + width) of a matrix [outputs, inputs], in panels of outputs: `to`
// [PanelsOf(outputs), width, kPanel], zeros beyond the last output.
void PackPanels(const float* matrix, int64_t outputs, int64_t inputs, int64_t begin, int64_t width,
                float* to);

// The same of a weight. Immutable.
struct PackedWeight {
  PackedWeight(const HostTensor& weight, int64_t begin, int64_t columns);

  int64_t width = 0;
  std::vector<float> values;
};

// x [rows, width] times a matrix [width, outputs] in panels.
struct ProductTerm {
  const float* x = nullptr;
  int64_t stride = 0;  // from row to row of x
  int64_t width = 0;
  // Element (k, o) is at weight[(o / kPanel) * panel_stride + k * row_stride + o % kPanel]; whole
  // panels are read.
  const float* weight = nullptr;
  int64_t row_stride = 0, panel_stride = 0;
};

// A term whose matrix is as PackPanels makes it.
ProductTerm PackedTerm(const float* x, int64_t stride, int64_t width, const float* packed);
// A term whose matrix is row-major, `row_stride` (a multiple of kPanel) from row to row.
ProductTerm RowMajorTerm(const float* x, int64_t stride, int64_t width, const float* matrix,
                         int64_t row_stride);

enum class Activation { kNone, kRelu };

// y [rows, outputs], rows `y_stride` apart, = activation(bias [outputs] + sum of terms). `bias`
// null: zeros. Reentrant, on the calling thread.
void SumProducts(std::span<const ProductTerm> terms, const float* bias, Activation activation,
                 int64_t rows, int64_t outputs, int64_t y_stride, float* y);

}  // namespace savior
