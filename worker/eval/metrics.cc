#include "worker/eval/metrics.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace savior {
namespace {

struct Scored {
  float prediction;
  bool positive;
};

// The end of the run of predictions equal to the one at `begin`.
size_t TieEnd(std::span<const Scored> sorted, size_t begin) {
  size_t end = begin + 1;
  while (end < sorted.size() && sorted[end].prediction == sorted[begin].prediction) ++end;
  return end;
}

// `sorted` ascends by prediction. Counts in halves of a pair, so that the sum is an exact integer:
// a tied pair is 1, an ordered one 2.
std::optional<double> SortedAuc(std::span<const Scored> sorted) {
  uint64_t negatives_below = 0;
  uint64_t positives = 0;
  uint64_t half_pairs = 0;
  for (size_t begin = 0; begin < sorted.size();) {
    const size_t end = TieEnd(sorted, begin);
    uint64_t tied_positives = 0;
    for (size_t i = begin; i < end; ++i) tied_positives += sorted[i].positive ? 1 : 0;
    const uint64_t tied_negatives = end - begin - tied_positives;
    half_pairs += tied_positives * (2 * negatives_below + tied_negatives);
    positives += tied_positives;
    negatives_below += tied_negatives;
    begin = end;
  }
  if (positives == 0 || negatives_below == 0) return std::nullopt;
  return static_cast<double>(half_pairs) /
         (2.0 * static_cast<double>(positives) * static_cast<double>(negatives_below));
}

bool IsPositive(float label) { return label > 0.5f; }

// Rows by (prediction, label): the order of equal rows cannot be told apart, so every sort gives
// the same sums.
bool ByPrediction(const Scored& a, const Scored& b) {
  return a.prediction != b.prediction ? a.prediction < b.prediction : a.positive < b.positive;
}

std::vector<Scored> SortedRows(std::span<const float> predictions, std::span<const float> labels) {
  std::vector<Scored> rows(predictions.size());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = {predictions[i], IsPositive(labels[i])};
  std::sort(rows.begin(), rows.end(), ByPrediction);
  return rows;
}

int64_t Positives(std::span<const float> labels) {
  return std::count_if(labels.begin(), labels.end(), IsPositive);
}

}  // namespace

std::optional<double> Auc(std::span<const float> predictions, std::span<const float> labels) {
  CHECK_EQ(predictions.size(), labels.size());
  return SortedAuc(SortedRows(predictions, labels));
}

GroupedAuc GroupAuc(std::span<const float> predictions, std::span<const float> labels,
                    std::span<const int32_t> groups) {
  CHECK_EQ(predictions.size(), labels.size());
  CHECK_EQ(predictions.size(), groups.size());
  std::vector<size_t> order(groups.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return groups[a] < groups[b]; });
  double weighted_sum = 0;
  int64_t covered = 0;
  std::vector<Scored> members;
  for (size_t begin = 0; begin < order.size();) {
    const int32_t group = groups[order[begin]];
    members.clear();
    size_t end = begin;
    for (; end < order.size() && groups[order[end]] == group; ++end) {
      members.push_back({predictions[order[end]], IsPositive(labels[order[end]])});
    }
    std::sort(members.begin(), members.end(), ByPrediction);
    if (const std::optional<double> auc = SortedAuc(members)) {
      weighted_sum += *auc * static_cast<double>(members.size());
      covered += static_cast<int64_t>(members.size());
    }
    begin = end;
  }
  if (covered == 0) return {};
  return {weighted_sum / static_cast<double>(covered),
          static_cast<double>(covered) / static_cast<double>(groups.size())};
}

std::optional<double> LogLoss(std::span<const float> predictions, std::span<const float> labels) {
  CHECK_EQ(predictions.size(), labels.size());
  if (predictions.empty()) return std::nullopt;
  double sum = 0;
  for (size_t i = 0; i < predictions.size(); ++i) {
    const double p = std::clamp<double>(predictions[i], kLogLossClamp, 1 - kLogLossClamp);
    sum -= IsPositive(labels[i]) ? std::log(p) : std::log1p(-p);
  }
  return sum / static_cast<double>(predictions.size());
}

std::optional<double> NormalizedEntropy(std::span<const float> predictions,
                                        std::span<const float> labels) {
  const std::optional<double> loss = LogLoss(predictions, labels);
  const auto n = static_cast<int64_t>(labels.size());
  const int64_t positives = Positives(labels);
  if (!loss || positives == 0 || positives == n) return std::nullopt;
  const double rate = static_cast<double>(positives) / static_cast<double>(n);
  const double entropy = -rate * std::log(rate) - (1 - rate) * std::log1p(-rate);
  return *loss / entropy;
}

std::optional<double> Pcoc(std::span<const float> predictions, std::span<const float> labels) {
  CHECK_EQ(predictions.size(), labels.size());
  const int64_t positives = Positives(labels);
  if (positives == 0) return std::nullopt;
  const double predicted = std::accumulate(predictions.begin(), predictions.end(), 0.0);
  return predicted / static_cast<double>(positives);
}

std::optional<double> CalibrationError(std::span<const float> predictions,
                                       std::span<const float> labels) {
  CHECK_EQ(predictions.size(), labels.size());
  if (predictions.empty()) return std::nullopt;
  const std::vector<Scored> rows = SortedRows(predictions, labels);
  const size_t n = rows.size();
  std::vector<double> excess(kCalibrationBins, 0.0);  // sum p - sum y
  for (size_t begin = 0; begin < n;) {
    const size_t end = TieEnd(rows, begin);
    double& bin = excess[begin * kCalibrationBins / n];
    for (size_t i = begin; i < end; ++i) bin += rows[i].prediction - (rows[i].positive ? 1.0 : 0.0);
    begin = end;
  }
  double sum = 0;
  for (const double bin : excess) sum += std::abs(bin);
  return sum / static_cast<double>(n);
}

}  // namespace savior
