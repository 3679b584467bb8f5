#include "worker/model/pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "common/random.h"
#include "tests/worker/fake_log.h"

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Period kAlways{.from = 0, .until = 1'000'000};

// `contents` items of one content each, twice over: item c and item contents + c share content c.
FakeLog LogOfContents(int contents) {
  FakeLog log({{.name = "text", .dim = 2}});
  for (int c = 0; c < contents; ++c) log.AddContent({{1.0f, static_cast<float>(c)}});
  for (int copy = 0; copy < 2; ++copy) {
    for (int c = 0; c < contents; ++c) log.AddItem(c);
  }
  return log;
}

std::vector<ContentPair> Pairs(const FakeLog& log, const SwingOptions& options) {
  const absl::StatusOr<std::vector<ContentPair>> pairs = SwingPairs(log, options);
  EXPECT_TRUE(pairs.ok()) << pairs.status();
  return pairs.value_or(std::vector<ContentPair>());
}

// The formula as it stands in the header, over all pairs of users; no sampling.
std::vector<ContentPair> NaiveSwing(const FakeLog& log, const SwingOptions& options) {
  std::vector<std::set<int32_t>> bought(static_cast<size_t>(log.num_users()));
  std::map<int32_t, int> counts;
  for (int64_t u = 0; u < log.num_users(); ++u) {
    const Timeline timeline = log.timeline(u);
    for (size_t i = 0; i < timeline.items.size(); ++i) {
      const int32_t content = log.item_contents()[static_cast<size_t>(timeline.items[i])];
      const bool inside = timeline.timestamps[i] >= options.period.from &&
                          timeline.timestamps[i] < options.period.until;
      if (content >= 0 && inside) bought[static_cast<size_t>(u)].insert(content);
    }
    for (const int32_t c : bought[static_cast<size_t>(u)]) ++counts[c];
  }
  std::map<std::pair<int32_t, int32_t>, double> scores;
  for (size_t u = 0; u < bought.size(); ++u) {
    for (size_t v = u + 1; v < bought.size(); ++v) {
      std::vector<int32_t> both;
      std::ranges::set_intersection(bought[u], bought[v], std::back_inserter(both));
      const double weight = 1.0 / std::sqrt(double(bought[u].size()) * double(bought[v].size())) /
                            (options.alpha + double(both.size()));
      for (const int32_t i : both) {
        for (const int32_t j : both) {
          if (i == j || counts[i] < options.min_count || counts[j] < options.min_count) continue;
          scores[{i, j}] += weight * std::pow(counts[j] + 1.0, -options.popularity_power);
        }
      }
    }
  }
  std::map<int32_t, std::vector<std::pair<double, int32_t>>> rows;
  for (const auto& [pair, score] : scores) rows[pair.first].emplace_back(-score, pair.second);
  std::vector<ContentPair> pairs;
  for (auto& [i, row] : rows) {
    std::ranges::sort(row);
    if (row.size() > static_cast<size_t>(options.neighbours))
      row.resize(static_cast<size_t>(options.neighbours));
    double sum = 0.0;
    for (const auto& [score, j] : row) sum -= score;
    for (const auto& [score, j] : row)
      pairs.push_back({i, j, static_cast<float>(-score / sum * std::sqrt(counts[i]))});
  }
  std::ranges::sort(pairs, {}, [](const ContentPair& p) { return std::pair(p.trigger, p.target); });
  return pairs;
}

TEST(SwingPairs, AgreesWithTheFormulaOnRandomData) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    const int contents = 3 + static_cast<int>(random.Below(15));
    FakeLog log = LogOfContents(contents);
    log.AddItem(-1);  // no vector: never in a pair
    const int users = 2 + static_cast<int>(random.Below(20));
    for (int u = 0; u < users; ++u) {
      const uint64_t purchases = random.Below(12);
      for (uint64_t p = 0; p < purchases; ++p) {
        log.AddBehaviour(u,
                         static_cast<int32_t>(random.Below(static_cast<uint64_t>(log.num_items()))),
                         static_cast<int64_t>(random.Below(100)));
      }
    }
    // All neighbours are kept: a near tie at the cut may fall either way.
    const SwingOptions options{.period = {.from = 10, .until = 90},
                               .users_per_item = 100,
                               .neighbours = 100,
                               .min_count = 1 + static_cast<int>(seed % 3),
                               .alpha = static_cast<double>(seed % 2),
                               .popularity_power = seed % 4 == 0 ? 0.0 : 0.5};
    const std::vector<ContentPair> pairs = Pairs(log, options);
    const std::vector<ContentPair> expected = NaiveSwing(log, options);
    ASSERT_EQ(pairs.size(), expected.size());
    for (size_t i = 0; i < pairs.size(); ++i) {
      EXPECT_EQ(pairs[i].trigger, expected[i].trigger);
      EXPECT_EQ(pairs[i].target, expected[i].target);
      EXPECT_NEAR(pairs[i].weight, expected[i].weight, 1e-5 * expected[i].weight);
    }
  }
}

TEST(SwingPairs, NeverLooksOutsideThePeriod) {
  FakeLog inside = LogOfContents(6);
  FakeLog both = LogOfContents(6);
  for (int u = 0; u < 5; ++u) {
    for (const int item : {0, 1, 2}) {
      inside.AddBehaviour(u, item, 100 + u);
      both.AddBehaviour(u, item, 100 + u);
    }
    for (const int item : {3, 4, 5, 0}) {
      both.AddBehaviour(u, item, 99);   // just before
      both.AddBehaviour(u, item, 200);  // the end is not in the period
    }
  }
  const SwingOptions options{.period = {.from = 100, .until = 200}};
  EXPECT_FALSE(Pairs(inside, options).empty());
  EXPECT_EQ(Pairs(both, options), Pairs(inside, options));
}

TEST(SwingPairs, CountsItemsOfOneContentAsOne) {
  FakeLog log = LogOfContents(2);
  for (int u = 0; u < 4; ++u) {
    log.AddBehaviour(u, 0, 10);
    log.AddBehaviour(u, 2, 11);  // content 0 again
    log.AddBehaviour(u, 3, 12);  // content 1
  }
  const float weight = std::sqrt(4.0f);  // the only neighbour, bought by four users
  EXPECT_THAT(Pairs(log, {.period = kAlways}),
              ElementsAre(ContentPair{0, 1, weight}, ContentPair{1, 0, weight}));
}

TEST(SwingPairs, KeepsTheBestNeighboursAndBreaksTiesByContent) {
  FakeLog log = LogOfContents(5);
  for (int u = 0; u < 4; ++u) {
    for (const int item : {0, 1, 2, 3}) log.AddBehaviour(u, item, u);
  }
  log.AddBehaviour(4, 0, 9);
  log.AddBehaviour(4, 3, 9);
  log.AddBehaviour(5, 0, 9);
  log.AddBehaviour(5, 3, 9);
  const std::vector<ContentPair> pairs =
      Pairs(log, {.period = kAlways, .neighbours = 2, .popularity_power = 0.0});
  std::vector<int32_t> targets;
  for (const ContentPair& pair : pairs) {
    if (pair.trigger == 0) targets.push_back(pair.target);
  }
  EXPECT_THAT(targets, ElementsAre(1, 3));  // 3 is best; 1 and 2 tie
}

TEST(SwingPairs, SamplesTheSameUsersForTheSameSeed) {
  FakeLog log = LogOfContents(30);
  Random random(8);
  for (int u = 0; u < 200; ++u) {
    for (int p = 0; p < 6; ++p) log.AddBehaviour(u, static_cast<int32_t>(random.Below(30)), p);
  }
  const SwingOptions options{.period = kAlways, .users_per_item = 10, .neighbours = 5, .seed = 1};
  SwingOptions other = options;
  other.seed = 2;
  const std::vector<ContentPair> pairs = Pairs(log, options);
  EXPECT_EQ(pairs, Pairs(log, options));
  EXPECT_NE(pairs, Pairs(log, other));
  EXPECT_TRUE(std::ranges::is_sorted(
      pairs, {}, [](const ContentPair& p) { return std::pair(p.trigger, p.target); }));
}

TEST(SwingPairs, IsEmptyWhenNobodyBuysTwoThings) {
  FakeLog log = LogOfContents(3);
  EXPECT_THAT(Pairs(log, {.period = kAlways}), IsEmpty());
  for (int u = 0; u < 9; ++u) log.AddBehaviour(u, u % 3, 5);
  EXPECT_THAT(Pairs(log, {.period = kAlways, .min_count = 1}), IsEmpty());
  EXPECT_THAT(Pairs(log, {.period = {.from = 7, .until = 3}}), IsEmpty());
  EXPECT_THAT(Pairs(FakeLog(), {.period = kAlways}), IsEmpty());
}

TEST(SwingPairs, RefusesOptionsOutOfBounds) {
  const FakeLog log = LogOfContents(1);
  const std::vector<void (*)(SwingOptions*)> mistakes = {
      [](SwingOptions* o) { o->users_per_item = 0; },
      [](SwingOptions* o) { o->users_per_item = 1 << 20; },
      [](SwingOptions* o) { o->neighbours = 0; },
      [](SwingOptions* o) { o->alpha = -1.0; },
      [](SwingOptions* o) { o->alpha = std::nan(""); },
      [](SwingOptions* o) { o->popularity_power = HUGE_VAL; },
  };
  for (const auto& mistake : mistakes) {
    SwingOptions options{.period = kAlways};
    mistake(&options);
    EXPECT_EQ(SwingPairs(log, options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace savior
