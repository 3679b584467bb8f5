#include "worker/eval/buckets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "common/config.h"

namespace savior {
namespace {

constexpr double kSecondsPerDay = 86400.0;

constexpr std::array<std::string_view, kBucketVariables> kVariableNames = {
    "age_days", "listed_day", "prior_count", "train_exposures", "content_seen", "has_vector"};

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsOperatorChar(char c) { return c == '<' || c == '>' || c == '=' || c == '!'; }
bool IsNameChar(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }

// Words of a predicate: runs of operator characters, and runs of anything else up to a space or an
// operator. So "age_days<=56" needs no spaces.
std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t begin = 0; begin < text.size();) {
    if (IsSpace(text[begin])) {
      ++begin;
      continue;
    }
    const bool is_operator = IsOperatorChar(text[begin]);
    size_t end = begin + 1;
    while (end < text.size() && !IsSpace(text[end]) && IsOperatorChar(text[end]) == is_operator) {
      ++end;
    }
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

}  // namespace

BucketFacts FactsOf(const TrainingLog& log, const ItemFacts& facts, int32_t item, int64_t timestamp,
                    int32_t prior_count) {
  const auto i = static_cast<size_t>(item);
  const int64_t listed_at = log.listed_at()[i];
  const int32_t content = log.item_contents()[i];
  const bool seen = content >= 0 && facts.content_seen[static_cast<size_t>(content)] != 0;
  BucketFacts values{};
  const auto set = [&](BucketVariable v, double value) { values[static_cast<size_t>(v)] = value; };
  set(BucketVariable::kAgeDays, static_cast<double>(timestamp - listed_at) / kSecondsPerDay);
  set(BucketVariable::kListedDay,
      static_cast<double>(listed_at - facts.log_start) / kSecondsPerDay);
  set(BucketVariable::kPriorCount, prior_count);
  set(BucketVariable::kTrainExposures, static_cast<double>(facts.train_exposures[i]));
  set(BucketVariable::kContentSeen, seen ? 1 : 0);
  set(BucketVariable::kHasVector, content >= 0 ? 1 : 0);
  return values;
}

// Single use: reads the comparisons of one predicate, word by word.
class Bucket::Parser {
 public:
  explicit Parser(const BucketSpec& spec) : spec_(spec), words_(Words(spec.predicate)) {}

  absl::StatusOr<std::vector<Comparison>> Read() {
    std::vector<Comparison> comparisons;
    if (words_.empty()) return comparisons;
    while (true) {
      SAVIOR_ASSIGN_OR_RETURN(const BucketVariable variable, ReadVariable());
      SAVIOR_ASSIGN_OR_RETURN(const Operator op, ReadOperator());
      SAVIOR_ASSIGN_OR_RETURN(const double number, ReadNumber());
      comparisons.push_back({variable, op, number});
      if (next_ == words_.size()) return comparisons;
      if (words_[next_] != "and") return Error(Found() + " where 'and' or the end should be");
      ++next_;
    }
  }

 private:
  absl::StatusOr<BucketVariable> ReadVariable() {
    if (next_ == words_.size() || IsOperatorChar(words_[next_][0])) {
      return Error(fmt::format("{} where a variable should be (one of {})", Found(),
                               fmt::join(kVariableNames, ", ")));
    }
    const std::string_view word = words_[next_++];
    const auto* found = std::find(kVariableNames.begin(), kVariableNames.end(), word);
    if (found == kVariableNames.end()) {
      return Error(fmt::format("unknown variable '{}'; did you mean '{}'? (variables: {})", word,
                               Nearest(word, {kVariableNames.begin(), kVariableNames.end()}),
                               fmt::join(kVariableNames, ", ")));
    }
    return static_cast<BucketVariable>(found - kVariableNames.begin());
  }

  absl::StatusOr<Operator> ReadOperator() {
    static constexpr std::array<std::pair<std::string_view, Operator>, 6> kOperators = {{
        {"<", Operator::kLess},
        {"<=", Operator::kLessEqual},
        {">", Operator::kGreater},
        {">=", Operator::kGreaterEqual},
        {"==", Operator::kEqual},
        {"!=", Operator::kNotEqual},
    }};
    if (next_ < words_.size()) {
      for (const auto& [text, op] : kOperators) {
        if (words_[next_] != text) continue;
        ++next_;
        return op;
      }
    }
    return Error(Found() + " where <, <=, >, >=, == or != should be");
  }

  absl::StatusOr<double> ReadNumber() {
    double number = 0;
    if (next_ < words_.size()) {
      std::string_view word = words_[next_];
      if (word.size() > 1 && word[0] == '+' && word[1] != '-') word.remove_prefix(1);
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
      if (error == std::errc() && end == word.data() + word.size() && std::isfinite(number)) {
        ++next_;
        return number;
      }
    }
    return Error(Found() + " where a number should be");
  }

  std::string Found() const {
    return next_ < words_.size() ? fmt::format("'{}'", words_[next_]) : "the end";
  }

  absl::Status Error(const std::string& what) const {
    return absl::InvalidArgumentError(
        fmt::format("bucket '{}': {} in \"{}\"", spec_.name, what, spec_.predicate));
  }

  const BucketSpec& spec_;
  const std::vector<std::string_view> words_;
  size_t next_ = 0;  // index of the first word not read yet
};

absl::StatusOr<Bucket> Bucket::Parse(const BucketSpec& spec) {
  if (spec.name.empty() || !std::all_of(spec.name.begin(), spec.name.end(), IsNameChar)) {
    return absl::InvalidArgumentError(
        fmt::format("bucket '{}': a name is made of lower-case letters, digits and _", spec.name));
  }
  Bucket bucket;
  bucket.name_ = spec.name;
  SAVIOR_ASSIGN_OR_RETURN(bucket.comparisons_, Parser(spec).Read());
  return bucket;
}

bool Bucket::Contains(const BucketFacts& facts) const {
  const auto holds = [&](const Comparison& c) {
    const double value = facts[static_cast<size_t>(c.variable)];
    switch (c.op) {
      case Operator::kLess:
        return value < c.number;
      case Operator::kLessEqual:
        return value <= c.number;
      case Operator::kGreater:
        return value > c.number;
      case Operator::kGreaterEqual:
        return value >= c.number;
      case Operator::kEqual:
        return value == c.number;
      case Operator::kNotEqual:
        return value != c.number;
    }
    return false;
  };
  return std::all_of(comparisons_.begin(), comparisons_.end(), holds);
}

absl::StatusOr<std::vector<Bucket>> ParseBuckets(std::span<const BucketSpec> specs) {
  std::vector<Bucket> buckets;
  SAVIOR_ASSIGN_OR_RETURN(Bucket all, Bucket::Parse({"all", ""}));
  buckets.push_back(std::move(all));
  std::set<std::string_view> names;
  for (const BucketSpec& spec : specs) {
    if (!names.insert(spec.name).second) {
      return absl::InvalidArgumentError(fmt::format("bucket '{}': given twice", spec.name));
    }
    SAVIOR_ASSIGN_OR_RETURN(Bucket bucket, Bucket::Parse(spec));
    if (spec.name != "all") {
      buckets.push_back(std::move(bucket));
    } else if (!Words(spec.predicate).empty()) {
      return absl::InvalidArgumentError(fmt::format(
          "bucket 'all': holds every row, but was given the predicate \"{}\"", spec.predicate));
    }
  }
  return buckets;
}

}  // namespace savior
