#include "common/initial_row.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/random.h"

namespace savior {
// By name, not by number: a table keeps its initial rows when others are added before it.
InitialRow::InitialRow(const TableSpec& spec, uint64_t seed)
    : dim_(spec.dim),
      scale_(spec.kind == TableKind::kId ? spec.init_scale : 0.0f),
      stream_(MixTwo(seed, HashName(spec.name))) {}

void InitialRow::Write(uint64_t key, float* weights) const {
  if (scale_ == 0.0f) {
    std::fill_n(weights, dim_, 0.0f);
    return;
  }
  // Box and Muller's transform as in Random::Normal, but both of its values are used. dim is even.
  Random random(stream_, key);
  for (uint32_t i = 0; i < dim_; i += 2) {
    const double radius = scale_ * std::sqrt(-2.0 * std::log1p(-random.Uniform()));
    const double angle = 2.0 * std::numbers::pi * random.Uniform();
    weights[i] = static_cast<float>(radius * std::cos(angle));
    weights[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

}  // namespace savior
