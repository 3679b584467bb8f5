// What a row is before its first update.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/store.h"

namespace savior {

// Initial weights of one table: kId N(0, init_scale^2), other kinds zeros. A pure function of
// (seed, table's name, key): the same for every shard count, budget and order of requests.
// Immutable, thread-safe.
class InitialRow {
 public:
  InitialRow(const TableSpec& spec, uint64_t seed);

  // Writes `weights` [dim].
  void Write(uint64_t key, float* weights) const;

 private:
  const uint32_t dim_;
  const float scale_;  // 0: zeros
  const uint64_t stream_;
};

}  // namespace savior
