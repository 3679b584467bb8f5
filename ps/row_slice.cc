#include "ps/row_slice.h"

#include <algorithm>
#include <span>

namespace savior {
namespace {

// Adjoining ranges from `start` on, one for each thread; one if it is not known how wide.
std::vector<RowRange> RangesOf(const SliceReading& reading, const RowSlice::Start& start) {
  std::vector<RowRange> ranges;
  uint64_t from = start.key;
  // A range that must end may have twice the rows that were guessed. There is none at the end of
  // all keys.
  while (start.width > 0 && ranges.size() + 1 < reading.threads &&
         start.width <= UINT64_MAX - from) {
    ranges.push_back({.from = from, .last = from + start.width - 1, .rows = 2 * reading.rows});
    from += start.width;
  }
  ranges.push_back({.from = from, .rows = reading.rows});
  return ranges;
}

}  // namespace

void RowSlice::Part::Clear() {
  heads.clear();
  values.clear();
}

void RowSlice::Part::Add(const StoredRow& row) {
  dim = row.weights.size();
  state = row.state.size();
  heads.push_back({row.key, row.updates, row.last_step});
  values.insert(values.end(), row.weights.begin(), row.weights.end());
  values.insert(values.end(), row.state.begin(), row.state.end());
}

absl::Status RowSlice::Fill(Shard* shard, const SliceReading& reading, const Start& start) {
  next_ = start;
  // Rows may all be forgotten ones.
  do {
    SAVIOR_RETURN_IF_ERROR(Read(shard, reading, *next_));
  } while (empty() && next_.has_value());
  return absl::OkStatus();
}

absl::Status RowSlice::Read(Shard* shard, const SliceReading& reading, const Start& start) {
  const std::vector<RowRange> ranges = RangesOf(reading, start);
  parts_.resize(ranges.size());
  for (Part& part : parts_) part.Clear();
  SAVIOR_ASSIGN_OR_RETURN(
      const std::vector<std::optional<uint64_t>> ends,
      shard->VisitRows(reading.table, ranges, [this](size_t r, const StoredRow& row) {
        parts_[r].Add(row);
        return absl::OkStatus();
      }));
  next_.reset();
  // The first that was ended by its rows ends the slice: behind it there is a gap.
  const auto end = std::ranges::find_if(ends, &std::optional<uint64_t>::has_value);
  if (end != ends.end()) {
    parts_.resize(static_cast<size_t>(end - ends.begin()) + 1);
    next_ = Start{.key = **end};
    // What lies before a part's first row says nothing of how dense rows are.
    const std::vector<Head>& heads = parts_.back().heads;
    if (heads.size() > 1) {
      const uint64_t gap = (heads.back().key - heads.front().key) / (heads.size() - 1);
      next_->width = gap > UINT64_MAX / reading.rows ? UINT64_MAX : gap * reading.rows;
    }
  }
  part_ = at_ = 0;
  SkipEmpty();
  return absl::OkStatus();
}

void RowSlice::SkipEmpty() {
  while (!empty() && at_ == parts_[part_].heads.size()) {
    ++part_;
    at_ = 0;
  }
}

StoredRow RowSlice::row() const {
  const Part& part = parts_[part_];
  const Head& head = part.heads[at_];
  const size_t floats = part.dim + part.state;
  const std::span<const float> values = std::span(part.values).subspan(at_ * floats, floats);
  return {.key = head.key,
          .weights = values.first(part.dim),
          .state = values.subspan(part.dim),
          .updates = head.updates,
          .last_step = head.last_step};
}

void RowSlice::Pop() {
  ++at_;
  SkipEmpty();
}

}  // namespace savior
