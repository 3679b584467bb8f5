// A cut through a table's rows: what ps/table.h says about it.
#include <algorithm>
#include <utility>

#include "ps/table.h"

namespace savior {
namespace {

// A slice: so many rows, found in so many buckets of the index, whichever comes first. About a
// tenth of a millisecond.
constexpr uint32_t kSliceRows = 1024;
constexpr uint64_t kSliceBuckets = 8192;
// The part of the tier that a slice may take: rows that are being written are no victims.
constexpr uint32_t kSlicePart = 8;
// Buckets between two looks at how many rows there are.
constexpr uint64_t kLook = 16;
// Of what was held back, in one job.
constexpr size_t kHeldRows = 1024;

}  // namespace

void Table::BeginCut() {
  cut_.emplace();
  hot_.BeginCut();
}

void Table::EndCut() {
  cut_.reset();
  hot_.EndCut();
}

bool Table::AfterCut(const HotTier::Place& place) const {
  return cut_->walked || HotIndex::HashOf(place.key()) < cut_->next || hot_.Changed(place);
}

absl::Status Table::SaveBeforeChange(std::span<const uint64_t> keys) {
  if (!cut_.has_value() || cut_->walked) return absl::OkStatus();
  absl::Status status;
  hot_.Find(keys, HotTier::Access::kPeek, [&](size_t, const HotTier::Place& place) {
    if (!place || AfterCut(place) || !status.ok()) return;
    // One that CleanAhead is writing is saved, too: that write may still fail.
    if ((place.marks() & (HotTier::kDirty | HotTier::kWriting)) != 0) {
      status = Encode(place, &cut_->saved);
      ++cut_->saved_rows;
    }
    hot_.SetChanged(place);
  });
  return status;
}

absl::StatusOr<std::optional<ColdWrite>> Table::NextSlice() {
  // Rows that CleanAhead is writing must not be met: one mark says that a row is being written.
  if (writing_ || CutIsPosted()) return std::nullopt;
  ColdWrite slice{.table = number_, .of = ColdWrite::Of::kSlice};
  std::vector<HotTier::Place> dirty;
  const size_t most = std::clamp<size_t>(hot_.capacity() / kSlicePart, 1, kSliceRows);
  for (uint64_t looked = 0; !cut_->walked && dirty.size() < most && looked < kSliceBuckets;
       looked += kLook) {
    hot_.Walk(&cut_->next, std::min<uint64_t>(kLook, most), [&](const HotTier::Place& place) {
      if ((place.marks() & HotTier::kDirty) != 0 && !hot_.Changed(place)) dirty.push_back(place);
    });
    cut_->walked = cut_->next == 0;
  }
  std::sort(dirty.begin(), dirty.end(),
            [](const HotTier::Place& a, const HotTier::Place& b) { return a.key() < b.key(); });
  slice.batch = std::exchange(cut_->saved, ColdStore::Batch());
  cut_->saved_rows = 0;
  slice.keys.reserve(dirty.size());
  for (const HotTier::Place& place : dirty) {
    SAVIOR_RETURN_IF_ERROR(Encode(place, &slice.batch));
    slice.keys.push_back(place.key());
  }
  for (const HotTier::Place& place : dirty) {
    HotTier::Unmark(place, HotTier::kDirty);
    HotTier::Mark(place, HotTier::kWriting);
  }
  return slice;
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
    absl::StatusOr<std::optional<ColdWrite>> slice = NextSlice();
    status = slice.status();
    if (!status.ok() || !slice->has_value()) continue;
    (*slice)->Run(*cold_);
    status = (*slice)->status;
    status.Update(FinishWrite(**slice));
  }
  EndCut();
  return status;
}

}  // namespace savior
