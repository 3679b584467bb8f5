// TableStats and StepStats as rows of numbers, for the wire. New counters are added at the end.
#pragma once

#include <algorithm>
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

inline constexpr size_t kStepCounters = 6;

// counters: [kStepCounters].
inline void PackCounters(const StepStats& stats, std::span<uint64_t> counters) {
  counters[0] = stats.steps;
  counters[1] = stats.pulls;
  counters[2] = stats.pulls_held;
  counters[3] = stats.max_staleness;
  counters[4] = stats.server_cpu_us;
  counters[5] = stats.repeated;
}

// Puts what a shard sent to what others did: `first` is the first one.
inline void AddCounters(std::span<const uint64_t> counters, bool first, StepStats* stats) {
  if (counters.size() < kStepCounters) return;
  stats->steps = first ? counters[0] : std::min(stats->steps, counters[0]);
  stats->pulls += counters[1];
  stats->pulls_held += counters[2];
  stats->max_staleness = std::max(stats->max_staleness, counters[3]);
  stats->server_cpu_us += counters[4];
  stats->repeated += counters[5];
}

}  // namespace savior
