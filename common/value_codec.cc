#include "common/value_codec.h"

#include <bit>
#include <cstring>

#include "common/half.h"
#include "common/simd.h"

static_assert(std::endian::native == std::endian::little, "the wire's bytes are memory's");

namespace savior {
namespace {

// common/half.h's HalfOf without branches, which would keep the loop from vectorising.
SAVIOR_INLINE uint16_t BranchlessHalfOf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t odd = (magnitude >> 13) & 1u;
  const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
  const uint32_t small =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(sign | half);
}

SAVIOR_INLINE float BranchlessFloatOfHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half & 0x7c00u;
  const uint32_t shifted = static_cast<uint32_t>(half & 0x7fffu) << 13;
  // The exponent's bias: 127 - 15. For infinities and NaN twice that; a subnormal is put at 2^-14,
  // which is then taken off.
  const uint32_t normal = shifted + (112u << 23);
  const uint32_t special = shifted + (224u << 23);
  const uint32_t small =
      std::bit_cast<uint32_t>(std::bit_cast<float>(shifted + (113u << 23)) - 0x1.0p-14f);
  uint32_t bits = exponent == 0 ? small : normal;
  bits = exponent == 0x7c00u ? special : bits;
  return std::bit_cast<float>(sign | bits);
}

SAVIOR_SIMD void ToHalf(const float* in, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = BranchlessHalfOf(in[i]);
}

SAVIOR_SIMD void FromHalf(const uint16_t* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = BranchlessFloatOfHalf(in[i]);
}

SAVIOR_SIMD void ToBfloat(const float* in, size_t n, uint16_t* out) {
  for (size_t i = 0; i < n; ++i) out[i] = BfloatOf(in[i]);
}

SAVIOR_SIMD void FromBfloat(const uint16_t* in, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i) out[i] = FloatOfBfloat(in[i]);
}

}  // namespace

void EncodeValues(ValueDtype dtype, std::span<const float> values, std::byte* out) {
  auto* const halves = reinterpret_cast<uint16_t*>(out);
  switch (dtype) {
    case ValueDtype::kFloat32:
      if (!values.empty()) std::memcpy(out, values.data(), values.size_bytes());
      return;
    case ValueDtype::kFloat16:
      return ToHalf(values.data(), values.size(), halves);
    case ValueDtype::kBfloat16:
      return ToBfloat(values.data(), values.size(), halves);
  }
}

void DecodeValues(ValueDtype dtype, const std::byte* in, std::span<float> values) {
  const auto* const halves = reinterpret_cast<const uint16_t*>(in);
  switch (dtype) {
    case ValueDtype::kFloat32:
      if (!values.empty()) std::memcpy(values.data(), in, values.size_bytes());
      return;
    case ValueDtype::kFloat16:
      return FromHalf(halves, values.size(), values.data());
    case ValueDtype::kBfloat16:
      return FromBfloat(halves, values.size(), values.data());
  }
}

}  // namespace savior
