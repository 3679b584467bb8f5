// Buckets: named slices of the evaluation ("new items", "popular items"), written in the
// configuration as predicates.
//
//   predicate  = [ comparison { "and" comparison } ]      empty: every row
//   comparison = variable op number                       "age_days <= 56"
//   op         = "<" | "<=" | ">" | ">=" | "==" | "!="
//   number     = decimal, optionally with sign, fraction or exponent; not infinite, not nan
//
//   age_days         request time - listing time, in days, with fraction; negative before the
//   listing listed_day       listing time in days since the start of the log
//   (ItemFacts::log_start), with
//                    fraction
//   prior_count      behaviours with the item on earlier days (UTC)
//   train_exposures  impressions of the item in the training period
//   content_seen     1 if an item with the same content had an impression in the training period,
//                    else 0; an item without content: 0
//   has_vector       1 if the item has content (a vector), else 0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "worker/data/training_log.h"
#include "worker/eval/item_facts.h"

namespace savior {

// As configured. A name is [a-z0-9_]+: it becomes a key of result.json and a column of
// predictions.parquet.
struct BucketSpec {
  std::string name;
  std::string predicate;
};

enum class BucketVariable : uint8_t {
  kAgeDays,
  kListedDay,
  kPriorCount,
  kTrainExposures,
  kContentSeen,
  kHasVector,
};
inline constexpr size_t kBucketVariables = 6;

// The value of every variable for one impression, indexed by BucketVariable.
using BucketFacts = std::array<double, kBucketVariables>;

// `item` is an item number of `log`, `timestamp` the request's unix seconds, `facts` of the same
// log.
BucketFacts FactsOf(const TrainingLog& log, const ItemFacts& facts, int32_t item, int64_t timestamp,
                    int32_t prior_count);

// Immutable, thread-safe.
class Bucket {
 public:
  // kInvalidArgument names the bucket, what was found instead, and the nearest variable.
  [[nodiscard]] static absl::StatusOr<Bucket> Parse(const BucketSpec& spec);

  const std::string& name() const { return name_; }
  bool Contains(const BucketFacts& facts) const;

 private:
  enum class Operator : uint8_t { kLess, kLessEqual, kGreater, kGreaterEqual, kEqual, kNotEqual };
  struct Comparison {
    BucketVariable variable;
    Operator op;
    double number;
  };
  class Parser;

  Bucket() = default;

  std::string name_;
  std::vector<Comparison> comparisons_;  // all must hold
};

// All buckets of an evaluation: "all" first (added if the configuration lacks it), the others in
// the order given. kInvalidArgument: a predicate that does not parse, a name given twice, an "all"
// that is not all.
[[nodiscard]] absl::StatusOr<std::vector<Bucket>> ParseBuckets(std::span<const BucketSpec> specs);

}  // namespace savior
