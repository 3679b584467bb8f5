#include "common/partition.h"

#include "common/routing.h"

namespace savior {

Partition::Partition(std::span<const TableKeys> requests, std::span<const uint32_t> bucket_map,
                     uint32_t shards)
    : pieces_(shards) {
  size_t total = 0;
  for (const TableKeys& request : requests) total += request.keys.size();
  keys_.resize(total);
  positions_.resize(total);

  // A counting sort per request: count, place, fill.
  std::vector<uint32_t> owners;
  std::vector<size_t> next(shards);
  size_t begin = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    const auto& [table, keys] = requests[r];
    owners.resize(keys.size());
    next.assign(shards, 0);
    for (size_t i = 0; i < keys.size(); ++i) {
      owners[i] = bucket_map[BucketOf(table, keys[i])];
      ++next[owners[i]];
    }
    for (uint32_t s = 0; s < shards; ++s) {
      const size_t n = next[s];
      next[s] = begin;
      if (n > 0) {
        pieces_[s].push_back(
            {r,
             table,
             {std::span(keys_).subspan(begin, n), std::span(positions_).subspan(begin, n)}});
      }
      begin += n;
    }
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t place = next[owners[i]]++;
      keys_[place] = keys[i];
      positions_[place] = static_cast<uint32_t>(i);
    }
  }
}

}  // namespace savior
