// TableStats as a row of numbers, for the wire. New counters are added at the end.
#pragma once

#include <cstdint>
#include <span>

#include "common/store.h"

namespace savior {

inline constexpr size_t kTableCounters = 12;

// The one list of them, in the wire's order.
template <typename Stats, typename Visit>
void ForEachCounter(Stats& stats, Visit visit) {
  for (auto* counter : {&stats.rows, &stats.hot_rows, &stats.hot_bytes, &stats.pulled,
                        &stats.hot_hits, &stats.missing, &stats.written_back, &stats.hinted,
                        &stats.admitted, &stats.refused, &stats.evicted, &stats.skipped}) {
    visit(*counter);
  }
}

// counters: [kTableCounters].
inline void PackCounters(const TableStats& stats, std::span<uint64_t> counters) {
  size_t i = 0;
  ForEachCounter(stats, [&](uint64_t counter) { counters[i++] = counter; });
}

// Adds what a shard sent; counters that it does not know are left alone, ones that we do not know
// are passed over.
inline void AddCounters(std::span<const uint64_t> counters, TableStats* stats) {
  size_t i = 0;
  ForEachCounter(*stats, [&](uint64_t& counter) {
    if (i < counters.size()) counter += counters[i++];
  });
}

}  // namespace savior
