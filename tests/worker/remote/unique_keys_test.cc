#include "worker/unique_keys.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace savior {
namespace {

TEST(UniqueKeys, NumbersKeysInTheOrderOfTheirFirstSight) {
  std::vector<uint64_t> keys;
  UniqueKeys unique(&keys);
  EXPECT_EQ(unique.Number(7), 0);
  EXPECT_EQ(unique.Number(0), 1);
  EXPECT_EQ(unique.Number(7), 0);
  EXPECT_EQ(unique.Number(UINT64_MAX), 2);
  EXPECT_EQ(keys, (std::vector<uint64_t>{7, 0, UINT64_MAX}));
}

TEST(UniqueKeys, AgreesWithAMapHoweverTheKeysCome) {
  for (const size_t n : {0u, 1u, 31u, 32u, 33u, 64u, 1000u, 50'000u}) {
    Random random(n);
    std::vector<uint64_t> drawn(n);
    for (uint64_t& key : drawn) key = random.Below(n / 2 + 1);
    std::vector<uint64_t> keys;
    UniqueKeys unique(&keys);
    std::vector<int64_t> numbers(n);
    const size_t half = n / 2;
    const std::span<const uint64_t> all(drawn);
    unique.NumberAll(all.first(half), std::span(numbers).first(half));
    for (size_t i = half; i < n; ++i) numbers[i] = unique.Number(drawn[i]);
    std::map<uint64_t, int64_t> expected;
    for (size_t i = 0; i < n; ++i) {
      const auto [found, fresh] =
          expected.try_emplace(drawn[i], static_cast<int64_t>(expected.size()));
      ASSERT_EQ(numbers[i], found->second);
      ASSERT_EQ(keys[static_cast<size_t>(numbers[i])], drawn[i]);
    }
    EXPECT_EQ(keys.size(), expected.size());
  }
}

}  // namespace
}  // namespace savior
