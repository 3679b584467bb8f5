#include "worker/model/pairs.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>

#include "common/progress.h"
#include "common/random.h"

namespace savior {
namespace {

// Users are numbered in sixteen bits inside an item's sample.
constexpr int kMaxUsersPerItem = 4096;

// Lists of numbers, one after the other.
struct Lists {
  std::vector<int64_t> offsets = {0};  // [lists + 1]
  std::vector<int32_t> values;
  std::span<const int32_t> operator[](size_t list) const {
    return std::span(values).subspan(static_cast<size_t>(offsets[list]),
                                     static_cast<size_t>(offsets[list + 1] - offsets[list]));
  }
  size_t size() const { return offsets.size() - 1; }
};

// The distinct contents of every user's behaviours in the period, ascending.
Lists ContentsOfUsers(const TrainingLog& log, Period period) {
  const std::span<const int32_t> contents = log.item_contents();
  Lists lists;
  lists.offsets.reserve(static_cast<size_t>(log.num_users()) + 1);
  for (int64_t user = 0; user < log.num_users(); ++user) {
    const Timeline timeline = log.timeline(user);
    const auto begin = std::ranges::lower_bound(timeline.timestamps, period.from);
    const auto end =
        std::ranges::lower_bound(timeline.timestamps, std::max(period.from, period.until));
    const auto first = static_cast<std::ptrdiff_t>(lists.values.size());
    for (const int32_t item :
         timeline.items.subspan(static_cast<size_t>(begin - timeline.timestamps.begin()),
                                static_cast<size_t>(end - begin))) {
      const int32_t content = contents[static_cast<size_t>(item)];
      if (content >= 0) lists.values.push_back(content);
    }
    std::sort(lists.values.begin() + first, lists.values.end());
    lists.values.erase(std::unique(lists.values.begin() + first, lists.values.end()),
                       lists.values.end());
    lists.offsets.push_back(static_cast<int64_t>(lists.values.size()));
  }
  return lists;
}

// The other way round: the users of every content, ascending.
Lists Transpose(const Lists& lists, size_t size) {
  Lists result;
  result.offsets.assign(size + 1, 0);
  for (const int32_t value : lists.values) ++result.offsets[static_cast<size_t>(value) + 1];
  for (size_t i = 0; i < size; ++i) result.offsets[i + 1] += result.offsets[i];
  result.values.resize(lists.values.size());
  std::vector<int64_t> next(result.offsets.begin(), result.offsets.end() - 1);
  for (size_t list = 0; list < lists.size(); ++list) {
    for (const int32_t value : lists[list]) {
      result.values[static_cast<size_t>(next[static_cast<size_t>(value)]++)] =
          static_cast<int32_t>(list);
    }
  }
  return result;
}

// Swing scores of one content against all others. The sum over pairs of users is turned around:
// with S_j = the sampled users of i who also have j,
//
//   |I_u & I_v| = #{j : u, v in S_j}
//   s(i, j)     = sum over u < v in S_j of c_uv,   c_uv = w_u w_v / (alpha + |I_u & I_v|)
//
// so two passes over the S_j do, at sum_j |S_j|^2 / 2 additions each, without intersecting a single
// pair of sets.
class Swing {
 public:
  // All of it must outlive this.
  Swing(const Lists* users, const Lists* contents, const SwingOptions* options)
      : users_(*users), contents_(*contents), options_(*options), holders_(contents->size()) {}

  // Appends the pairs of trigger `content`: its nearest contents, ascending.
  void Append(int32_t content, std::vector<ContentPair>* pairs) {
    Gather(content);
    WeighUserPairs();
    std::vector<std::pair<double, int32_t>>
        scores;  // (-score, content): ascending is best first, ties by content
    for (const int32_t other : touched_) {
      if (other == content || Count(other) < options_.min_count) continue;
      const double score = Score(other) * std::pow(Count(other) + 1.0, -options_.popularity_power);
      if (score > 0.0) scores.emplace_back(-score, other);
    }
    for (const int32_t other : touched_) holders_[static_cast<size_t>(other)].clear();
    touched_.clear();
    const auto kept = static_cast<std::ptrdiff_t>(
        std::min<size_t>(scores.size(), static_cast<size_t>(options_.neighbours)));
    std::partial_sort(scores.begin(), scores.begin() + kept, scores.end());
    scores.resize(static_cast<size_t>(kept));
    AppendKept(content, scores, pairs);
  }

  int Count(int32_t content) const {
    return static_cast<int>(contents_[static_cast<size_t>(content)].size());
  }

 private:
  // Fills sample_, holders_ and touched_.
  void Gather(int32_t content) {
    const std::span<const int32_t> all = contents_[static_cast<size_t>(content)];
    sample_.assign(all.begin(), all.end());
    if (sample_.size() > static_cast<size_t>(options_.users_per_item)) {
      // Its own stream per content: the sample does not depend on the contents before.
      Random random(options_.seed, static_cast<uint64_t>(content));
      const auto wanted = static_cast<size_t>(options_.users_per_item);
      for (size_t i = 0; i < wanted; ++i)
        std::swap(sample_[i], sample_[i + random.Below(sample_.size() - i)]);
      sample_.resize(wanted);
      std::ranges::sort(sample_);
    }
    for (size_t u = 0; u < sample_.size(); ++u) {
      for (const int32_t other : users_[static_cast<size_t>(sample_[u])]) {
        std::vector<uint16_t>& holders = holders_[static_cast<size_t>(other)];
        if (holders.empty()) touched_.push_back(other);
        holders.push_back(static_cast<uint16_t>(u));
      }
    }
  }

  // Fills user_pairs_: c_uv at [u * n + v], u < v.
  void WeighUserPairs() {
    const size_t n = sample_.size();
    shared_.assign(n * n, 0);
    for (const int32_t other : touched_) {
      const std::vector<uint16_t>& holders = holders_[static_cast<size_t>(other)];
      for (size_t a = 0; a < holders.size(); ++a) {
        int32_t* row = &shared_[holders[a] * n];
        for (size_t b = a + 1; b < holders.size(); ++b) ++row[holders[b]];
      }
    }
    user_pairs_.assign(n * n, 0.0);
    for (size_t u = 0; u < n; ++u) {
      for (size_t v = u + 1; v < n; ++v) {
        const double sizes = static_cast<double>(UserSize(u)) * static_cast<double>(UserSize(v));
        user_pairs_[u * n + v] = 1.0 / (std::sqrt(sizes) * (options_.alpha + shared_[u * n + v]));
      }
    }
  }

  double Score(int32_t other) const {
    const std::vector<uint16_t>& holders = holders_[static_cast<size_t>(other)];
    double score = 0.0;
    for (size_t a = 0; a < holders.size(); ++a) {
      const double* row = &user_pairs_[holders[a] * sample_.size()];
      for (size_t b = a + 1; b < holders.size(); ++b) score += row[holders[b]];
    }
    return score;
  }

  void AppendKept(int32_t content, const std::vector<std::pair<double, int32_t>>& scores,
                  std::vector<ContentPair>* pairs) const {
    double sum = 0.0;
    for (const auto& [score, other] : scores) sum -= score;
    const size_t first = pairs->size();
    for (const auto& [score, other] : scores) {
      const auto weight =
          static_cast<float>(-score / sum * std::sqrt(static_cast<double>(Count(content))));
      if (weight > 0.0f) pairs->push_back({content, other, weight});
    }
    std::sort(pairs->begin() + static_cast<std::ptrdiff_t>(first), pairs->end(),
              [](const ContentPair& a, const ContentPair& b) { return a.target < b.target; });
  }

  size_t UserSize(size_t u) const { return users_[static_cast<size_t>(sample_[u])].size(); }

  const Lists& users_;     // contents of each user
  const Lists& contents_;  // users of each content
  const SwingOptions& options_;
  std::vector<int32_t> sample_;  // users sampled, ascending
  std::vector<std::vector<uint16_t>>
      holders_;                   // per content: S_j, into sample_, ascending; empty between calls
  std::vector<int32_t> touched_;  // contents with a holder
  std::vector<int32_t> shared_;   // [n, n], u < v: |I_u & I_v|
  std::vector<double> user_pairs_;  // [n, n], u < v: c_uv
};

absl::Status Validate(const SwingOptions& options) {
  const auto refuse = [](const auto&... words) {
    return absl::InvalidArgumentError(absl::StrCat(words...));
  };
  if (options.users_per_item < 1 || options.users_per_item > kMaxUsersPerItem) {
    return refuse("users_per_item is ", options.users_per_item, ", not in [1, ", kMaxUsersPerItem,
                  "]");
  }
  if (options.neighbours < 1) return refuse("neighbours is ", options.neighbours, ", not positive");
  if (!(options.alpha >= 0.0 && std::isfinite(options.alpha)))
    return refuse("alpha is ", options.alpha, ", not in [0, inf)");
  if (!std::isfinite(options.popularity_power)) return refuse("popularity_power is not finite");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<ContentPair>> SwingPairs(const TrainingLog& log,
                                                    const SwingOptions& options,
                                                    const std::function<absl::Status()>& breathe) {
  SAVIOR_RETURN_IF_ERROR(Validate(options));
  const Lists users = ContentsOfUsers(log, options.period);
  const Lists contents = Transpose(users, static_cast<size_t>(log.num_contents()));
  std::vector<ContentPair> pairs;
  Swing swing(&users, &contents, &options);
  constexpr int32_t kBetweenBreaths = 16;  // contents
  std::optional<Progress> progress;
  if (!breathe) progress.emplace("Swing pairs", log.num_contents(), "contents");
  for (int32_t content = 0; content < static_cast<int32_t>(log.num_contents()); ++content) {
    if (swing.Count(content) >= options.min_count) swing.Append(content, &pairs);
    if (content % kBetweenBreaths != 0) continue;
    if (breathe) SAVIOR_RETURN_IF_ERROR(breathe());
    if (progress) progress->Update(content);
  }
  if (progress) {
    progress->Update(log.num_contents());
    progress->Finish(absl::StrCat(pairs.size(), " pairs"));
  }
  return pairs;
}

}  // namespace savior
