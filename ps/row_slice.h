// Some rows of one shard's table, copied: what a walk over several shards in the order of the keys
// holds of each.
//
// A slice is read by several threads when there are some: they take ranges of keys that adjoin, as
// wide as held `rows` rows where the slice before ended. Where the guess was too narrow, ranges
// hold less; where it was too wide, one ends at its bound, and what was read behind it is dropped.
// So threads change how fast rows come, never which: the last range has no end, and every slice
// gets on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/status.h"
#include "ps/shard.h"

namespace savior {

// How a shard's rows are read.
struct SliceReading {
  uint32_t table = 0;
  uint64_t rows = 4096;  // that a thread takes at a time, about; > 0
  size_t threads = 1;    // > 0
};

// Single-threaded, but for Fill, which may run on the shard's thread while nobody else looks.
class RowSlice {
 public:
  // Where a slice begins.
  struct Start {
    uint64_t key = 0;
    uint64_t width =
        0;  // keys of a range that has about as many rows as a thread takes; 0: unknown
  };

  // The shard's rows from `start` on, at most 2 * rows * threads; none if it has no more.
  [[nodiscard]] absl::Status Fill(Shard* shard, const SliceReading& reading, const Start& start);

  bool empty() const { return part_ == parts_.size(); }
  // Where to go on behind it; nothing: it was the last.
  std::optional<Start> next() const { return next_; }
  // The first row that is left; not empty.
  uint64_t key() const { return parts_[part_].heads[at_].key; }
  StoredRow row() const;
  void Pop();

 private:
  struct Head {
    uint64_t key;
    uint32_t updates;
    int64_t last_step;
  };
  // What one thread has read. On cache lines of its own: each thread adds to its part.
  struct alignas(64) Part {
    std::vector<Head> heads;
    std::vector<float> values;  // [rows, dim + state]
    size_t dim = 0, state = 0;

    void Clear();
    void Add(const StoredRow& row);
  };

  absl::Status Read(Shard* shard, const SliceReading& reading, const Start& start);
  void SkipEmpty();

  std::optional<Start> next_;
  std::vector<Part> parts_;  // in the order of their keys
  size_t part_ = 0, at_ = 0;
};

}  // namespace savior
