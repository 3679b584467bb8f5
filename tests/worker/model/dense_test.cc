#include "worker/model/dense.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "common/half.h"

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Half, ComesBackFromFloatForAllBits) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if ((half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0) {
      EXPECT_TRUE(std::isnan(FloatOfHalf(half)));
    } else {
      EXPECT_EQ(HalfOf(FloatOfHalf(half)), half) << bits;
    }
  }
}

TEST(Half, HasTheStandardsValues) {
  EXPECT_EQ(FloatOfHalf(0x3c00), 1.0f);
  EXPECT_EQ(FloatOfHalf(0xc000), -2.0f);
  EXPECT_EQ(FloatOfHalf(0x0001), 0x1p-24f);
  EXPECT_EQ(FloatOfHalf(0x7bff), 65504.0f);
  EXPECT_TRUE(std::isinf(FloatOfHalf(0x7c00)));
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(HalfOf(1.0f + 0x1p-11f), 0x3c00);      // half way: the even one
  EXPECT_EQ(HalfOf(1.0f + 3 * 0x1p-11f), 0x3c02);  // half way: the even one
  EXPECT_EQ(HalfOf(1.0f + 0x1.8p-11f), 0x3c01);
  EXPECT_EQ(HalfOf(65519.0f), 0x7bff);
  EXPECT_EQ(HalfOf(65520.0f), 0x7c00);
  EXPECT_EQ(HalfOf(0x1p-26f), 0x0000);
  EXPECT_EQ(HalfOf(-0x1.8p-25f), 0x8001);
}

TEST(Dense, AddsTheProduct) {
  std::vector<float> y = {100, 200};
  AddProduct(std::vector<float>{1, 2, 3}, std::vector<float>{1, 2, 3, 4, 5, 6}, y);
  EXPECT_THAT(y, ElementsAre(122, 228));
}

TEST(Dense, NormaliseKeepsZerosAndScalesTheRest) {
  std::vector<float> zeros(3);
  Normalise(zeros);
  EXPECT_THAT(zeros, ElementsAre(0, 0, 0));
  std::vector<float> x = {3, 0, -4};
  Normalise(x);
  EXPECT_THAT(x, ElementsAre(0.6f, 0, -0.8f));
  std::vector<float> tiny = {3e-30f, 4e-30f};
  Normalise(tiny);
  EXPECT_FLOAT_EQ(tiny[0], 0.6f);
}

TEST(Mlp, ComputesItsFormula) {
  const Mlp mlp{.inputs = 1,
                .hidden = 2,
                .outputs = 1,
                .w1 = {1, -1},
                .b1 = {0, 1},
                .w2 = {2, 3},
                .b2 = {0.5f}};
  const auto silu = [](double v) { return v / (1 + std::exp(-v)); };
  std::vector<float> y = {10};
  AddMlp(mlp, std::vector<float>{0.7f}, y);
  EXPECT_NEAR(y[0], 10.5 + 2 * silu(0.7) + 3 * silu(0.3), 1e-5);
}

TEST(Mlp, ComesBackFromItsFile) {
  Random random(5);
  const Mlp mlp = RandomMlp(3, 4, 2, &random);
  TensorFile file;
  SaveMlp(mlp, "m", &file);
  const absl::StatusOr<Mlp> loaded = LoadMlp(file, "m", 3, 2);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(*loaded, mlp);
}

TEST(TakeTensor, NamesWhatIsWrong) {
  TensorFile file;
  file.tensors["x"] = {{2, 3}, std::vector<float>(6)};
  file.tensors["short"] = {{2, 3}, std::vector<float>(5)};
  file.tensors["nan"] = {{1}, {std::numeric_limits<float>::quiet_NaN()}};
  file.tensors["none"] = {{0, 3}, {}};
  EXPECT_TRUE(TakeTensor(file, "x", {2, 3}).ok());
  EXPECT_TRUE(TakeTensor(file, "x", {-1, 3}).ok());
  for (const auto& [name, shape] :
       std::vector<std::pair<std::string, std::vector<int64_t>>>{{"y", {2, 3}},
                                                                 {"x", {3, 2}},
                                                                 {"x", {6}},
                                                                 {"short", {2, 3}},
                                                                 {"nan", {1}},
                                                                 {"none", {-1, 3}}}) {
    const absl::Status status = TakeTensor(file, name, shape).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name;
    EXPECT_THAT(status.message(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace savior
