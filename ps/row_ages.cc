#include "ps/row_ages.h"

#include <algorithm>
#include <span>
#include <utility>

#include "ps/packed_bytes.h"

namespace savior {
namespace {

// A row's step has 32 bits: wider bins than this would never be needed.
constexpr int kMaxShift = 32;

}  // namespace

void RowAges::MergePairs() {
  std::deque<Bin> merged;
  for (size_t b = 0; b < bins_.size(); ++b) {
    const int64_t number = first_ + static_cast<int64_t>(b);
    if (b == 0 || number % 2 == 0) {
      merged.push_back(bins_[b]);
      continue;
    }
    Bin& to = merged.back();
    to.rows += bins_[b].rows;
    for (uint32_t s = 0; s < kSlices; ++s) to.slices[s] += bins_[b].slices[s];
  }
  bins_ = std::move(merged);
  first_ /= 2;
  ++shift_;
}

void RowAges::WidenFor(int64_t first, int64_t last) {
  while (last - first >= kMaxBins) {
    MergePairs();
    first /= 2;
    last /= 2;
  }
}

void RowAges::Reach(int64_t step) {
  if (bins_.empty()) return;
  WidenFor(first_, step >> shift_);
}

RowAges::Bin& RowAges::BinAt(int64_t step) {
  if (bins_.empty()) first_ = step >> shift_;
  const int64_t last = first_ + std::max<int64_t>(static_cast<int64_t>(bins_.size()), 1) - 1;
  WidenFor(std::min(first_, step >> shift_), std::max(last, step >> shift_));
  const int64_t number = step >> shift_;
  for (; number < first_; --first_) bins_.emplace_front();
  while (first_ + static_cast<int64_t>(bins_.size()) <= number) bins_.emplace_back();
  return bins_[static_cast<size_t>(number - first_)];
}

void RowAges::Add(int64_t step, uint32_t slice, uint32_t rows) {
  Bin& bin = BinAt(step);
  bin.slices[slice] += rows;
  bin.rows += rows;
  rows_ += rows;
}

void RowAges::Remove(int64_t step, uint32_t slice) {
  const int64_t bin = (step >> shift_) - first_;
  // Only a saved state that does not belong to these rows gets here; a count never falls below 0.
  if (bin < 0 || bin >= static_cast<int64_t>(bins_.size())) return;
  Bin& from = bins_[static_cast<size_t>(bin)];
  if (from.slices[slice] == 0) return;
  --from.slices[slice];
  --from.rows;
  --rows_;
}

void RowAges::Trim() {
  while (!bins_.empty() && bins_.front().rows == 0) {
    bins_.pop_front();
    ++first_;
  }
}

std::optional<RowAges::Cell> RowAges::Oldest() {
  Trim();
  if (bins_.empty()) return std::nullopt;
  const Bin& bin = bins_.front();
  uint32_t slice = 0;
  while (bin.slices[slice] == 0) ++slice;
  return Cell{(first_ + 1) << shift_, slice, bin.slices[slice]};
}

uint64_t RowAges::RemoveBefore(int64_t end, uint32_t slice) {
  uint64_t removed = 0;
  for (size_t b = 0; b < bins_.size(); ++b) {
    if ((first_ + static_cast<int64_t>(b) + 1) << shift_ > end) break;
    const uint32_t rows = std::exchange(bins_[b].slices[slice], 0);
    bins_[b].rows -= rows;
    removed += rows;
  }
  rows_ -= removed;
  return removed;
}

void RowAges::Merge(const RowAges& other) {
  while (shift_ < other.shift_) MergePairs();
  for (size_t b = 0; b < other.bins_.size(); ++b) {
    const int64_t step = (other.first_ + static_cast<int64_t>(b)) << other.shift_;
    for (uint32_t s = 0; s < kSlices; ++s) {
      if (other.bins_[b].slices[s] > 0) Add(step, s, other.bins_[b].slices[s]);
    }
  }
}

void RowAges::Clear() { *this = RowAges(); }

void RowAges::Append(std::string* bytes) const {
  AppendNumber(static_cast<uint8_t>(shift_), bytes);
  AppendNumber(static_cast<uint16_t>(bins_.size()), bytes);
  AppendNumber(first_, bytes);
  for (const Bin& bin : bins_) AppendNumbers<uint32_t>(bin.slices, bytes);
}

bool RowAges::Take(std::string_view* bytes) {
  Clear();
  uint8_t shift = 0;
  uint16_t bins = 0;
  if (!TakeNumber(bytes, &shift) || shift > kMaxShift || !TakeNumber(bytes, &bins) ||
      bins > kMaxBins || !TakeNumber(bytes, &first_) || first_ < 0 ||
      first_ > (int64_t{1} << kMaxShift) >> shift) {
    return false;
  }
  shift_ = shift;
  std::array<uint64_t, kSlices> totals = {};
  for (uint16_t b = 0; b < bins; ++b) {
    Bin& bin = bins_.emplace_back();
    if (!TakeNumbers<uint32_t>(bytes, bin.slices)) return false;
    for (uint32_t s = 0; s < kSlices; ++s) {
      bin.rows += bin.slices[s];
      totals[s] += bin.slices[s];
    }
    rows_ += bin.rows;
  }
  // Merged bins must not overflow.
  return *std::ranges::max_element(totals) <= UINT32_MAX;
}

}  // namespace savior
