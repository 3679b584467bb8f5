// Rows and gradients as they travel: float32, or rounded to 16 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace savior {

// Values of a message. The numbers are part of the wire format.
enum class ValueDtype : uint8_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

constexpr size_t WidthOf(ValueDtype dtype) { return dtype == ValueDtype::kFloat32 ? 4 : 2; }

// Writes values.size() * WidthOf(dtype) bytes, little-endian, to `out` (4-byte aligned). 16-bit
// values are the nearest, ties to even; beyond float16's range they are infinite.
void EncodeValues(ValueDtype dtype, std::span<const float> values, std::byte* out);
// The reverse, exact: reads values.size() * WidthOf(dtype) bytes from `in` (4-byte aligned).
void DecodeValues(ValueDtype dtype, const std::byte* in, std::span<float> values);

}  // namespace savior
