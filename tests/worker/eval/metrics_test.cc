#include "worker/eval/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/random.h"

namespace savior {
namespace {

using Floats = std::vector<float>;

// The definition: over all pairs of a positive and a negative, 1 if the positive is above, half if
// tied.
double NaiveAuc(const Floats& predictions, const Floats& labels) {
  double sum = 0;
  double pairs = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    for (size_t j = 0; j < labels.size(); ++j) {
      if (labels[i] != 1 || labels[j] != 0) continue;
      pairs += 1;
      if (predictions[i] > predictions[j]) sum += 1;
      if (predictions[i] == predictions[j]) sum += 0.5;
    }
  }
  return sum / pairs;
}

TEST(Auc, CountsTiesHalf) {
  // Pairs (positive, negative): .8>.4, .8>.1, .4=.4, .4>.1 -> 3.5 of 4.
  EXPECT_DOUBLE_EQ(Auc(Floats{.8f, .4f, .4f, .1f}, Floats{1, 1, 0, 0}).value(), 0.875);
  EXPECT_DOUBLE_EQ(Auc(Floats{.1f, .9f}, Floats{0, 1}).value(), 1.0);
  EXPECT_DOUBLE_EQ(Auc(Floats{.9f, .1f}, Floats{0, 1}).value(), 0.0);
  EXPECT_DOUBLE_EQ(Auc(Floats{.3f, .3f, .3f}, Floats{0, 1, 1}).value(), 0.5);
}

TEST(Auc, IsUndefinedWithoutBothClasses) {
  EXPECT_EQ(Auc({}, {}), std::nullopt);
  EXPECT_EQ(Auc(Floats{.2f, .3f}, Floats{1, 1}), std::nullopt);
  EXPECT_EQ(Auc(Floats{.2f}, Floats{0}), std::nullopt);
}

TEST(Auc, EqualsTheNaiveDefinitionOnRandomTies) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    const uint64_t levels = 1 + random.Below(12);
    Floats predictions = {.5f, .5f};
    Floats labels = {0, 1};
    for (uint64_t i = random.Below(150); i > 0; --i) {
      predictions.push_back(static_cast<float>(random.Below(levels)) / 12);
      labels.push_back(random.Below(3) == 0 ? 1.0f : 0.0f);
    }
    EXPECT_DOUBLE_EQ(Auc(predictions, labels).value(), NaiveAuc(predictions, labels));
    const std::vector<int32_t> one_group(labels.size(), 7);
    EXPECT_DOUBLE_EQ(GroupAuc(predictions, labels, one_group).auc.value(),
                     NaiveAuc(predictions, labels));
  }
}

TEST(GroupAuc, WeighsGroupsByTheirRowsAndSkipsThoseOfOneClass) {
  // Group 5: AUC 1 over 2 rows; group 2: (.9 > .3, .2 < .3, ..) positives .9, .2 against .3 -> .5
  // over 3 rows; group 9: one class, 3 rows.
  const std::vector<int32_t> groups = {5, 2, 9, 2, 5, 2, 9, 9};
  const Floats predictions = {.8f, .9f, .1f, .3f, .2f, .2f, .5f, .6f};
  const Floats labels = {1, 1, 0, 0, 0, 1, 0, 0};
  const GroupedAuc grouped = GroupAuc(predictions, labels, groups);
  EXPECT_DOUBLE_EQ(grouped.auc.value(), (1.0 * 2 + 0.5 * 3) / 5);
  EXPECT_DOUBLE_EQ(grouped.coverage, 5.0 / 8);
}

TEST(GroupAuc, IsUndefinedIfEveryGroupHasOneClass) {
  const GroupedAuc grouped = GroupAuc(Floats{.1f, .9f}, Floats{0, 1}, std::vector<int32_t>{1, 2});
  EXPECT_EQ(grouped.auc, std::nullopt);
  EXPECT_EQ(grouped.coverage, 0);
  EXPECT_EQ(GroupAuc({}, {}, {}).auc, std::nullopt);
  EXPECT_EQ(GroupAuc({}, {}, {}).coverage, 0);
}

TEST(LogLoss, IsTheMeanCrossEntropy) {
  EXPECT_DOUBLE_EQ(LogLoss(Floats{.5f, .25f}, Floats{1, 0}).value(),
                   (std::log(2.0) - std::log(0.75)) / 2);
  EXPECT_EQ(LogLoss({}, {}), std::nullopt);
}

TEST(LogLoss, ClampsWrongCertainty) {
  EXPECT_NEAR(LogLoss(Floats{0.0f}, Floats{1}).value(), -std::log(1e-7), 1e-9);
  EXPECT_NEAR(LogLoss(Floats{1.0f}, Floats{0}).value(), -std::log(1e-7), 1e-6);
  EXPECT_NEAR(LogLoss(Floats{1.0f}, Floats{1}).value(), 1e-7, 1e-12);
}

TEST(NormalizedEntropy, IsOneForTheBaseRate) {
  EXPECT_NEAR(NormalizedEntropy(Floats{.25f, .25f, .25f, .25f}, Floats{0, 1, 0, 0}).value(), 1.0,
              1e-12);
  EXPECT_LT(NormalizedEntropy(Floats{.1f, .9f}, Floats{0, 1}).value(), 1.0);
}

TEST(NormalizedEntropy, IsUndefinedWithoutBothClasses) {
  EXPECT_EQ(NormalizedEntropy({}, {}), std::nullopt);
  EXPECT_EQ(NormalizedEntropy(Floats{.5f}, Floats{1}), std::nullopt);
  EXPECT_EQ(NormalizedEntropy(Floats{.5f}, Floats{0}), std::nullopt);
}

TEST(Pcoc, IsPredictedOverObserved) {
  EXPECT_DOUBLE_EQ(Pcoc(Floats{.5f, .25f, .75f}, Floats{1, 0, 0}).value(), 1.5);
  EXPECT_EQ(Pcoc(Floats{.5f}, Floats{0}), std::nullopt);
  EXPECT_EQ(Pcoc({}, {}), std::nullopt);
}

TEST(CalibrationError, SumsTheBinsExcess) {
  // 40 rows, two per bin: the lower 20 predicted .25 but never positive, hence tied: one bin, |5 -
  // 0|. Of the upper 20 (distinct, about .75) all are positive: 10 bins of |1.5 - 2|, about 5 in
  // all.
  Floats predictions(20, .25f);
  Floats labels(20, 0);
  double upper = 0;
  for (int i = 0; i < 20; ++i) {
    predictions.push_back(.75f + static_cast<float>(i) / 1024);
    labels.push_back(1);
    upper += 1 - static_cast<double>(predictions.back());
  }
  EXPECT_NEAR(CalibrationError(predictions, labels).value(), (5 + upper) / 40, 1e-12);
}

TEST(CalibrationError, IsSmallWhenCalibratedAndDefinedForOneClass) {
  EXPECT_DOUBLE_EQ(CalibrationError(Floats{.5f, .5f}, Floats{0, 1}).value(), 0.0);
  EXPECT_DOUBLE_EQ(CalibrationError(Floats{.25f}, Floats{1}).value(), 0.75);
  EXPECT_EQ(CalibrationError({}, {}), std::nullopt);
}

TEST(CalibrationError, DoesNotDependOnTheOrderOfRows) {
  Random random(3);
  Floats predictions;
  Floats labels;
  for (int i = 0; i < 101; ++i) {
    predictions.push_back(static_cast<float>(random.Below(30)) / 32);
    labels.push_back(random.Below(2) == 0 ? 1.0f : 0.0f);
  }
  const Floats reversed_predictions(predictions.rbegin(), predictions.rend());
  const Floats reversed_labels(labels.rbegin(), labels.rend());
  EXPECT_EQ(CalibrationError(predictions, labels),
            CalibrationError(reversed_predictions, reversed_labels));
}

}  // namespace
}  // namespace savior
