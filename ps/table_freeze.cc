// A cut through a table's rows: what ps/table.h says about it.
#include <algorithm>
#include <utility>

#include "ps/table.h"

namespace savior {
namespace {

// Of a job: what RocksDB's own files have when they are new.
constexpr size_t kSliceBytes = size_t{16} << 20;
// The part of the tier that a job may take: rows that are being written are no victims.
constexpr uint32_t kSlicePart = 8;
// Collected at a time: so many rows, found in so many buckets of the index, whichever comes first.
constexpr size_t kCollectRows = 512;
constexpr uint64_t kCollectBuckets = 4096;
// Beyond a full slice: a request's copies.
constexpr size_t kSpareRows = 4096;
// Buckets between two looks at how many rows there are.
constexpr uint64_t kLook = 16;
// Of what was held back, in one job.
constexpr size_t kHeldRows = 1024;

}  // namespace

ColdSlice Table::NewSlice() const {
  ColdSlice slice{.table = number_, .stored_bytes = layout_.stored_bytes()};
  // At once: growing would copy megabytes while a request waits.
  const size_t rows = SliceRows() + kSpareRows;
  slice.marked.reserve(rows);
  slice.keys.reserve(rows);
  slice.values.reserve(rows * slice.stored_bytes);
  return slice;
}

void Table::BeginCut() {
  cut_.emplace(Cut{});
  cut_->slice = NewSlice();
  hot_.BeginCut();
}

void Table::EndCut() {
  // What was collected and never posted: the cut was given up.
  cut_->slice.status = absl::CancelledError();
  FinishSlice(cut_->slice);
  cut_.reset();
  hot_.EndCut();
}

bool Table::AfterCut(const HotTier::Place& place) const {
  return cut_->walked || HotIndex::HashOf(place.key()) < cut_->next || hot_.Changed(place);
}

void Table::Copy(const HotTier::Place& place) {
  layout_.Encode(hot_.Row(place), &stored_);
  cut_->slice.keys.push_back(place.key());
  cut_->slice.values.append(stored_);
}

void Table::SaveBeforeChange(std::span<const uint64_t> keys) {
  if (!cut_.has_value() || cut_->walked) return;
  hot_.Find(keys, HotTier::Access::kPeek, [&](size_t, const HotTier::Place& place) {
    if (!place || AfterCut(place)) return;
    // One that CleanAhead is writing is copied, too: that write may still fail.
    if ((place.marks() & (HotTier::kDirty | HotTier::kWriting)) != 0) Copy(place);
    hot_.SetChanged(place);
  });
}

size_t Table::SliceRows() const {
  return std::clamp<size_t>(hot_.capacity() / kSlicePart, 1, kSliceBytes / layout_.stored_bytes());
}

bool Table::Collect() {
  // Rows that CleanAhead is writing must not be met: one mark says that a row is being written.
  if (writing_ || cut_->walked) return false;
  ColdSlice& slice = cut_->slice;
  const size_t most = slice.keys.size() + std::min(kCollectRows, SliceRows());
  for (uint64_t looked = 0; !cut_->walked && slice.keys.size() < most && looked < kCollectBuckets;
       looked += kLook) {
    hot_.Walk(&cut_->next, std::min<uint64_t>(kLook, most), [&](const HotTier::Place& place) {
      if ((place.marks() & HotTier::kDirty) == 0 || hot_.Changed(place)) return;
      Copy(place);
      slice.marked.push_back(place.key());
      HotTier::Unmark(place, HotTier::kDirty);
      HotTier::Mark(place, HotTier::kWriting);
    });
    cut_->walked = cut_->next == 0;
  }
  return true;
}

std::optional<ColdSlice> Table::NextSlice() {
  if (cut_->slice.keys.empty() || (!cut_->walked && cut_->slice.keys.size() < SliceRows())) {
    return std::nullopt;
  }
  return std::exchange(cut_->slice, NewSlice());
}

void Table::FinishSlice(const ColdSlice& slice) {
  hot_.Find(slice.marked, HotTier::Access::kPeek, [&](size_t, const HotTier::Place& place) {
    HotTier::Unmark(place, HotTier::kWriting);  // it is there: it was no victim
    if (!slice.status.ok()) HotTier::Mark(place, HotTier::kDirty);
  });
}

absl::StatusOr<std::optional<ColdWrite>> Table::NextHeld() {
  if (cut_.has_value() || writing_held_ || held_back_.empty()) return std::nullopt;
  ColdWrite write{.table = number_, .of = ColdWrite::Of::kHeld};
  write.keys = held_back_.Take(kHeldRows);
  for (const uint64_t key : write.keys) {
    SAVIOR_RETURN_IF_ERROR(cold_->Put(number_, key, *held_back_.Find(key), &write.batch));
  }
  writing_held_ = true;
  return write;
}

absl::Status Table::WriteBack() {
  BeginCut();
  absl::Status status;
  while (status.ok() && !CutIsPosted()) {
    Collect();
    std::optional<ColdSlice> slice = NextSlice();
    if (!slice.has_value()) continue;
    slice->Run(*cold_);
    FinishSlice(*slice);
    status = slice->status;
  }
  EndCut();
  return Annotate(status, "table " + spec_.name);
}

}  // namespace savior
