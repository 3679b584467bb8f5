// What a ranker's predictions are worth. Pure functions, thread-safe.
//
// `predictions` are probabilities in [0, 1], `labels` are 0 or 1, both [n]. Nothing here returns
// NaN: a metric that the rows do not define (no rows, one class only) is nullopt. Sums are fp64, in
// an order that the input fixes: equal inputs give equal bits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace savior {

// Log loss clamps predictions to [kLogLossClamp, 1 - kLogLossClamp]: one wrong row costs at
// most 16.1 nats.
inline constexpr double kLogLossClamp = 1e-7;
inline constexpr int64_t kCalibrationBins = 20;

// Area under the ROC curve: the probability that a random positive is scored above a random
// negative, ties counting half. Exact, O(n log n); n < 2^31. nullopt: one class only.
std::optional<double> Auc(std::span<const float> predictions, std::span<const float> labels);

struct GroupedAuc {
  std::optional<double> auc;  // nullopt: no group has both classes
  double coverage = 0;  // share of the rows that lie in groups with both classes; 0 without rows
};

// GAUC: the mean of the AUCs within each group (a user), weighted by the group's rows, over groups
// with both classes (Zhou et al., DIN, KDD 2018, equation 7). `groups` is [n], in any order.
GroupedAuc GroupAuc(std::span<const float> predictions, std::span<const float> labels,
                    std::span<const int32_t> groups);

// Mean cross entropy in nats. nullopt: no rows.
std::optional<double> LogLoss(std::span<const float> predictions, std::span<const float> labels);

// Log loss over the entropy of the base rate (He et al., ADKDD 2014): 1 is what the constant base
// rate achieves, less is better. nullopt: one class only.
std::optional<double> NormalizedEntropy(std::span<const float> predictions,
                                        std::span<const float> labels);

// Predicted over observed positives, sum p / sum y: 1 is calibrated. nullopt: no positives.
std::optional<double> Pcoc(std::span<const float> predictions, std::span<const float> labels);

// Expected calibration error: rows by ascending prediction in kCalibrationBins bins of equal mass,
// then sum over bins |sum p - sum y| / n. Equal predictions are never split: they fall into the bin
// of their first. nullopt: no rows.
std::optional<double> CalibrationError(std::span<const float> predictions,
                                       std::span<const float> labels);

}  // namespace savior
