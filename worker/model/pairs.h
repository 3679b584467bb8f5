// Behaviour pairs that SaviorEnc learns from: Swing item-item similarity over co-purchase, training
// period only.
//
//   s(i, j) = sum over pairs u < v of users of both items of  w_u w_v / (alpha + |I_u & I_v|)
//   w_u     = |I_u|^-1/2
//
// Merely consecutive purchases are not used as pairs: an encoder trained on them ranks worse than
// plain PCA (measured; docs/encoder.md).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/status.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"

namespace savior {

struct SwingOptions {
  Period period;                  // behaviours outside are never looked at
  int users_per_item = 60;        // > 0; a seeded sample of each item's users
  int neighbours = 20;            // > 0; kept per item
  int min_count = 3;              // both items: distinct users in the period
  double alpha = 1.0;             // >= 0
  double popularity_power = 0.5;  // s is multiplied by (count_j + 1)^-power; 0: off
  uint64_t seed = 0;
};

// A directed pair of *content numbers* (an item's vector decides; items that share content are
// one).
struct ContentPair {
  int32_t trigger = 0;
  int32_t target = 0;
  float weight = 0.0f;  // sampling weight s / sum_j s * count_i^1/2, > 0
  bool operator==(const ContentPair&) const = default;
};

// Sorted by (trigger, target), unique, trigger != target. Deterministic. Empty if nobody buys two
// things.
// `breathe`, where it is given, is called every few contents in place of showing progress, and its
// errors end it.
[[nodiscard]] absl::StatusOr<std::vector<ContentPair>> SwingPairs(
    const TrainingLog& log, const SwingOptions& options,
    const std::function<absl::Status()>& breathe = nullptr);

}  // namespace savior
