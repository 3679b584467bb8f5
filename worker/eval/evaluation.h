// The evaluation of a period: {CTR, CTCVR} x buckets, as result.json and as a table for a person.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "worker/data/training_log.h"
#include "worker/eval/buckets.h"
#include "worker/eval/item_facts.h"
#include "worker/eval/predictions.h"

namespace savior {

inline constexpr int64_t kFewPositives =
    200;  // a cell with fewer is flagged: its AUC is mostly noise

// The metrics of one task on one bucket (worker/eval/metrics.h says what each is). nullopt: not
// defined by these rows. Every impression counts once, whatever its weight.
struct Cell {
  std::optional<double> auc;
  std::optional<double> gauc;  // groups are users
  double gauc_coverage = 0;
  std::optional<double> logloss;
  std::optional<double> ne;
  std::optional<double> pcoc;
  std::optional<double> ece;
  int64_t n = 0;
  int64_t positives = 0;
  bool flagged = false;  // positives < kFewPositives
  bool operator==(const Cell&) const = default;
};

using BucketCells =
    std::vector<std::pair<std::string, Cell>>;  // by bucket name, in the order of the buckets

struct EvalResult {
  BucketCells ctr;    // label: click
  BucketCells ctcvr;  // label: click * conversion; empty if the log has no conversions
  bool operator==(const EvalResult&) const = default;
};

// Equal inputs give equal bits. `buckets` as ParseBuckets gives them; `facts` are of `log`.
// kInvalidArgument: a probability that is not a finite number in [0, 1] (row named): the model has
// diverged.
[[nodiscard]] absl::StatusOr<EvalResult> Evaluate(const TrainingLog& log,
                                                  const Predictions& predictions,
                                                  std::span<const Bucket> buckets,
                                                  const ItemFacts& facts);

// The `eval` block of result.json: {"ctr": {"all": {"auc": .., ..}, ..}, "ctcvr": ..}, keys in
// fixed order, null where a metric is not defined. Doubles are printed by nlohmann's dump as the
// shortest text that reads back the same.
nlohmann::ordered_json ToJson(const EvalResult& result);

// Aligned text: a row per bucket; AUC and GAUC in points (x 100).
void PrintTable(const EvalResult& result, std::ostream& out);

}  // namespace savior
