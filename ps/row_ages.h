// How many rows were last pushed when: an exact histogram, in bounded memory.
//
// A cell is a bin of 2^k consecutive steps, aligned, by one of 256 slices of keys. There are at
// most 256 bins from the oldest row's step to the newest: where more would be needed, bins are
// merged by pairs and k grows by one (it starts at 0 and never shrinks). So a cell is 1/256 of the
// rows of a bin, and a bin 1/256 to 1/128 of the ages that rows have: at most 512 KiB, less while
// there are fewer bins.
//
// Histograms of parts of a table can be added: k is a function of the oldest row's age at each step
// so far (the oldest row as of the last Trim), so that of the whole is the largest of the parts',
// and bins are aligned.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

namespace savior {

// Single-threaded. Steps are >= 0. Add and Remove are O(1), but for the merging.
class RowAges {
 public:
  static constexpr int64_t kMaxBins = 256;
  static constexpr uint32_t kSlices = 256;

  void Add(int64_t step, uint32_t slice) { Add(step, slice, 1); }
  // One that was added and not removed.
  void Remove(int64_t step, uint32_t slice);
  // Says that `step` has come: the oldest row's age counts up to here. Steps go up.
  void Reach(int64_t step);

  // Drops the bins before the oldest row: from here on, its age counts.
  void Trim();

  struct Cell {
    int64_t end = 0;  // its steps are < end
    uint32_t slice = 0;
    uint32_t rows = 0;
  };
  // The first cell with rows by (bin, slice). Trims.
  std::optional<Cell> Oldest();
  // Removes all rows of bins that end at `end` or before, in this slice; how many that were.
  uint64_t RemoveBefore(int64_t end, uint32_t slice);

  // Adds all rows of `other`.
  void Merge(const RowAges& other);
  void Clear();

  uint64_t rows() const { return rows_; }
  int64_t width() const { return int64_t{1} << shift_; }
  // RAM, this object included.
  size_t bytes() const { return sizeof(*this) + bins_.size() * sizeof(Bin); }

  // Little-endian: shift:u8 bins:u16 first:i64, then per bin u32[kSlices].
  void Append(std::string* bytes) const;
  // Takes them off the front of `*bytes`; false if they are none, and this is then undefined.
  [[nodiscard]] bool Take(std::string_view* bytes);

 private:
  struct Bin {
    uint64_t rows = 0;
    std::array<uint32_t, kSlices> slices = {};
  };

  void Add(int64_t step, uint32_t slice, uint32_t rows);
  // The bin of `step`, made if need be.
  Bin& BinAt(int64_t step);
  // So that bins first .. last, numbered by the width now, are no more than kMaxBins of a width.
  void WidenFor(int64_t first, int64_t last);
  void MergePairs();

  int shift_ = 0;
  int64_t first_ = 0;  // number (step >> shift) of the front bin
  uint64_t rows_ = 0;
  std::deque<Bin> bins_;
};

}  // namespace savior
