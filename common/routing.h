// Which shard owns a key: key -> one of 4,096 buckets -> shard.
//
// Buckets are the unit of ownership, so that a commit of N shards restores onto M by reassigning
// buckets.
#pragma once

#include <cstdint>
#include <vector>

#include "common/random.h"

namespace savior {

inline constexpr uint32_t kBuckets = 4096;

// The bucket of `key` in table number `table`. Part of the commit format: never changes.
constexpr uint32_t BucketOf(uint32_t table, uint64_t key) {
  return static_cast<uint32_t>(MixTwo(table, key) >> 52);
}
static_assert(kBuckets == 1u << (64 - 52));

// bucket -> shard, [kBuckets], every entry < `shards`. Even to within one bucket. shards > 0.
inline std::vector<uint32_t> EvenBucketMap(uint32_t shards) {
  std::vector<uint32_t> map(kBuckets);
  for (uint32_t b = 0; b < kBuckets; ++b)
    map[b] = static_cast<uint32_t>(uint64_t{b} * shards / kBuckets);
  return map;
}

}  // namespace savior
