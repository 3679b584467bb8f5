#include "serving/packed_product.h"

#include <algorithm>
#include <cstring>

#include "common/simd.h"

namespace savior {
namespace {

// One panel of outputs: a register of AVX-512, two of AVX2, four of SSE.
typedef float Panel __attribute__((vector_size(PackedWeight::kPanel * sizeof(float))));

struct Product {
  std::span<const ProductTerm> terms;
  const float* bias;
  int64_t rows;
  int64_t outputs;
  float* y;
};

// kRows rows of one panel, accumulated in registers.
template <int kRows>
SAVIOR_INLINE void Tile(const Product& p, int64_t row, int64_t panel) {
  const int64_t begin = panel * PackedWeight::kPanel;
  const auto size =
      static_cast<size_t>(std::min(PackedWeight::kPanel, p.outputs - begin)) * sizeof(float);
  Panel sums[kRows] = {};
  if (p.bias != nullptr) {
    std::memcpy(&sums[0], p.bias + begin, size);
    for (int r = 1; r < kRows; ++r) sums[r] = sums[0];
  }
  for (const ProductTerm& term : p.terms) {
    const float* const x = term.x + row * term.stride;
    const float* const weight = term.weight + panel * term.width * PackedWeight::kPanel;
    for (int64_t k = 0; k < term.width; ++k) {
      Panel w;
      std::memcpy(&w, weight + k * PackedWeight::kPanel, sizeof(w));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r] += w * x[r * term.stride + k];
    }
  }
  float* const y = p.y + row * p.outputs + begin;
  for (int r = 0; r < kRows; ++r) std::memcpy(y + r * p.outputs, &sums[r], size);
}

template <int kRows>
SAVIOR_INLINE void Panels(const Product& p, int64_t row) {
  for (int64_t panel = 0; panel < PackedWeight::Panels(p.outputs); ++panel) {
    Tile<kRows>(p, row, panel);
  }
}

// kMost: as many rows as the registers hold.
template <int kMost>
SAVIOR_INLINE void Multiply(const Product& p) {
  int64_t row = 0;
  for (; row + kMost <= p.rows; row += kMost) Panels<kMost>(p, row);
  if constexpr (kMost > 4) {
    for (; row + 4 <= p.rows; row += 4) Panels<4>(p, row);
  }
  for (; row < p.rows; ++row) Panels<1>(p, row);
}

void MultiplyBaseline(const Product& p) { Multiply<3>(p); }

using Kernel = void (*)(const Product&);

// Not SAVIOR_SIMD: the number of rows differs, too.
#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2,fma,bmi2"))) void MultiplyAvx2(const Product& p) { Multiply<6>(p); }
__attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl"))) void MultiplyAvx512(
    const Product& p) {
  Multiply<12>(p);
}

Kernel ChooseKernel() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return MultiplyAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    return MultiplyAvx2;
  }
  return MultiplyBaseline;
}
#else
Kernel ChooseKernel() { return MultiplyBaseline; }
#endif

}  // namespace

PackedWeight::PackedWeight(const HostTensor& weight, int64_t begin, int64_t columns)
    : width(columns) {
  const int64_t outputs = weight.shape[0], inputs = weight.shape[1];
  values.resize(static_cast<size_t>(Panels(outputs) * width * kPanel));
  for (int64_t o = 0; o < outputs; ++o) {
    float* const to = values.data() + o / kPanel * width * kPanel + o % kPanel;
    for (int64_t k = 0; k < width; ++k) {
      to[k * kPanel] = weight.data[static_cast<size_t>(o * inputs + begin + k)];
    }
  }
}

void SumProducts(std::span<const ProductTerm> terms, const float* bias, int64_t rows,
                 int64_t outputs, float* y) {
  static const Kernel kernel = ChooseKernel();
  kernel({terms, bias, rows, outputs, y});
}

}  // namespace savior
