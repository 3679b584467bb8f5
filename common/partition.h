// Splits requests by shard.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/store.h"

namespace savior {

// The part of a request's keys that one shard has, and where the rows are in the caller's arrays.
struct RowSelection {
  std::span<const uint64_t> keys;       // [n], unique
  std::span<const uint32_t> positions;  // [n]; empty: row i is at i

  RowSelection Slice(size_t begin, size_t n) const {
    if (!positions.empty()) return {keys.subspan(begin, n), positions.subspan(begin, n)};
    return {keys.subspan(begin, n), {}};
  }
};

// One shard's part of one request.
struct Piece {
  size_t request = 0;  // index into the requests
  uint32_t table = 0;
  RowSelection selection;
};

// Immutable after construction. Costs 16 B per key.
class Partition {
 public:
  // bucket_map: [kBuckets], entries < shards. Keeps the order of keys within a piece.
  Partition(std::span<const TableKeys> requests, std::span<const uint32_t> bucket_map,
            uint32_t shards);

  // Pieces of `shard`, in the order of requests; none is empty.
  std::span<const Piece> Of(uint32_t shard) const { return pieces_[shard]; }

 private:
  std::vector<uint64_t> keys_;
  std::vector<uint32_t> positions_;
  std::vector<std::vector<Piece>> pieces_;  // [shards], into the arrays above
};

}  // namespace savior
