#include "serving/packed_product.h"

#include <algorithm>
#include <cstring>

namespace savior {
namespace {

struct Product {
  std::span<const ProductTerm> terms;
  const float* bias;
  Activation activation;
  int64_t rows;
  int64_t outputs;
  int64_t y_stride;
  float* y;
};

// kRows rows of one panel, accumulated in registers.
template <int kRows>
SAVIOR_INLINE void Tile(const Product& p, int64_t row, int64_t panel) {
  const int64_t begin = panel * kPanel;
  const auto size = static_cast<size_t>(std::min(kPanel, p.outputs - begin)) * sizeof(float);
  Panel sums[kRows] = {};
  if (p.bias != nullptr) {
    std::memcpy(&sums[0], p.bias + begin, size);
    for (int r = 1; r < kRows; ++r) sums[r] = sums[0];
  }
  for (const ProductTerm& term : p.terms) {
    const float* const x = term.x + row * term.stride;
    const float* const weight = term.weight + panel * term.panel_stride;
    for (int64_t k = 0; k < term.width; ++k) {
      const Panel w = LoadPanel(weight + k * term.row_stride);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r] += w * x[r * term.stride + k];
    }
  }
  if (p.activation == Activation::kRelu) {
    const Panel zero = {};
    for (int r = 0; r < kRows; ++r) sums[r] = sums[r] > zero ? sums[r] : zero;
  }
  float* const y = p.y + row * p.y_stride + begin;
  if (size == sizeof(Panel)) {
    for (int r = 0; r < kRows; ++r) StorePanel(y + r * p.y_stride, sums[r]);
  } else {
    for (int r = 0; r < kRows; ++r) std::memcpy(y + r * p.y_stride, &sums[r], size);
  }
}

template <int kRows>
SAVIOR_INLINE void Tiles(const Product& p, int64_t row) {
  for (int64_t panel = 0; panel < PanelsOf(p.outputs); ++panel) Tile<kRows>(p, row, panel);
}

// kMost: as many rows as the registers hold.
template <int kMost>
SAVIOR_INLINE void Multiply(const Product& p) {
  int64_t row = 0;
  for (; row + kMost <= p.rows; row += kMost) Tiles<kMost>(p, row);
  if constexpr (kMost > 4) {
    for (; row + 4 <= p.rows; row += 4) Tiles<4>(p, row);
  }
  for (; row < p.rows; ++row) Tiles<1>(p, row);
}

void MultiplyBaseline(const Product& p) { Multiply<3>(p); }
SAVIOR_AVX2 void MultiplyAvx2(const Product& p) { Multiply<6>(p); }
SAVIOR_AVX512 void MultiplyAvx512(const Product& p) { Multiply<12>(p); }

}  // namespace

void PackPanels(const float* matrix, int64_t outputs, int64_t inputs, int64_t begin, int64_t width,
                float* to) {
  if (outputs % kPanel != 0) {
    std::fill_n(to + outputs / kPanel * width * kPanel, width * kPanel, 0.0f);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const float* const row = matrix + o * inputs + begin;
    float* const column = to + o / kPanel * width * kPanel + o % kPanel;
    for (int64_t k = 0; k < width; ++k) column[k * kPanel] = row[k];
  }
}

PackedWeight::PackedWeight(const HostTensor& weight, int64_t begin, int64_t columns)
    : width(columns) {
  const int64_t outputs = weight.shape[0];
  values.resize(static_cast<size_t>(PanelsOf(outputs) * width * kPanel));
  PackPanels(weight.data.data(), outputs, weight.shape[1], begin, width, values.data());
}

ProductTerm PackedTerm(const float* x, int64_t stride, int64_t width, const float* packed) {
  return {.x = x,
          .stride = stride,
          .width = width,
          .weight = packed,
          .row_stride = kPanel,
          .panel_stride = width * kPanel};
}

ProductTerm RowMajorTerm(const float* x, int64_t stride, int64_t width, const float* matrix,
                         int64_t row_stride) {
  return {.x = x,
          .stride = stride,
          .width = width,
          .weight = matrix,
          .row_stride = row_stride,
          .panel_stride = kPanel};
}

void SumProducts(std::span<const ProductTerm> terms, const float* bias, Activation activation,
                 int64_t rows, int64_t outputs, int64_t y_stride, float* y) {
  static auto* const kernel = ForThisMachine(MultiplyBaseline, MultiplyAvx2, MultiplyAvx512);
  kernel({terms, bias, activation, rows, outputs, y_stride, y});
}

}  // namespace savior
