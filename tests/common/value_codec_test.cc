#include "common/value_codec.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "common/half.h"
#include "common/random.h"

namespace savior {
namespace {

// Numbers of every kind: all exponents, ties, subnormals, infinities, NaN.
std::vector<float> HardFloats() {
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 65536; ++upper) {
    for (const uint32_t lower : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u}) {
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  Random random(1);
  for (int i = 0; i < 100'000; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  }
  return values;
}

TEST(ValueCodec, SixteenBitsAreRoundedAsTheSimpleFunctionsDo) {
  const std::vector<float> values = HardFloats();
  std::vector<uint16_t> out(values.size());
  auto* const bytes = reinterpret_cast<std::byte*>(out.data());
  EncodeValues(ValueDtype::kFloat16, values, bytes);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], HalfOf(values[i])) << values[i];
  EncodeValues(ValueDtype::kBfloat16, values, bytes);
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(out[i], BfloatOf(values[i])) << values[i];
}

TEST(ValueCodec, SixteenBitsAreReadExactly) {
  std::vector<uint16_t> in(65536);
  for (uint32_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i);
  const auto* const bytes = reinterpret_cast<const std::byte*>(in.data());
  std::vector<float> out(in.size());
  const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  DecodeValues(ValueDtype::kFloat16, bytes, out);
  for (uint32_t i = 0; i < in.size(); ++i) ASSERT_TRUE(same(out[i], FloatOfHalf(in[i]))) << i;
  DecodeValues(ValueDtype::kBfloat16, bytes, out);
  for (uint32_t i = 0; i < in.size(); ++i) ASSERT_TRUE(same(out[i], FloatOfBfloat(in[i]))) << i;
}

TEST(ValueCodec, FloatsKeepTheirBits) {
  const std::vector<float> values = HardFloats();
  std::vector<std::byte> bytes(values.size() * 4);
  EncodeValues(ValueDtype::kFloat32, values, bytes.data());
  std::vector<float> back(values.size());
  DecodeValues(ValueDtype::kFloat32, bytes.data(), back);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), std::bit_cast<uint32_t>(values[i]));
  }
}

TEST(ValueCodec, NoValuesWork) {
  for (const ValueDtype dtype :
       {ValueDtype::kFloat32, ValueDtype::kFloat16, ValueDtype::kBfloat16}) {
    EncodeValues(dtype, {}, nullptr);
    DecodeValues(dtype, nullptr, {});
  }
}

}  // namespace
}  // namespace savior
