// What moves rows between the tiers, and out of both.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "ps/table.h"

namespace savior {
namespace {

// Evictions are in groups of at least this, if that is no more than a sixteenth of the tier: a
// write to the cold store has a price of its own.
constexpr uint32_t kEvictAtLeast = 64;
// And of at most this, which bounds the batch.
constexpr uint32_t kEvictAtMost = 4096;

// Bounds of what hints may hold, in rows and in steps that are under way or to come.
constexpr size_t kMaxHeldRows = size_t{1} << 20;
constexpr size_t kMaxHeldSteps = 64;

// Keys that have left RAM since reads are under way: with more no read begins, until all that are
// under way have ended and the keys are forgotten. Else they would grow for as long as the second
// thread does not catch up.
constexpr size_t kMaxErased = size_t{1} << 16;

}  // namespace

absl::Status Table::PrepareToWrite() {
  return hot_.size() > hot_.capacity() ? MakeRoom(0) : absl::OkStatus();
}

absl::Status Table::MakeRoom(size_t rows) {
  while (hot_.size() + rows > hot_.capacity()) {
    const auto missing = static_cast<uint32_t>(hot_.size() + rows - hot_.capacity());
    const uint32_t at_least = std::min(kEvictAtLeast, hot_.capacity() / 16);
    const std::vector<HotTier::Victim> victims =
        hot_.PickVictims(std::clamp(missing, at_least, kEvictAtMost));
    if (victims.empty()) return absl::OkStatus();
    SAVIOR_RETURN_IF_ERROR(Evict(victims));
  }
  return absl::OkStatus();
}

absl::Status Table::Evict(std::span<const HotTier::Victim> victims) {
  std::vector<uint64_t> dirty, later;
  for (const HotTier::Victim& victim : victims) {
    if (!victim.dirty) continue;
    const bool hold =
        cut_.has_value() ? AfterCut(hot_.Find(victim.key)) : held_back_.Contains(victim.key);
    (hold ? later : dirty).push_back(victim.key);
  }
  if (!dirty.empty()) {
    std::sort(dirty.begin(), dirty.end());
    ColdStore::Batch batch;
    for (const uint64_t key : dirty) SAVIOR_RETURN_IF_ERROR(Encode(hot_.Find(key), &batch));
    // Before the rows leave RAM: if the write fails they are all still here, dirty.
    SAVIOR_RETURN_IF_ERROR(cold_->Write(&batch));
  }
  for (const uint64_t key : later) {
    layout_.Encode(hot_.Row(hot_.Find(key)), &stored_);
    held_back_.Put(key, stored_);
  }
  stats_.written_back += dirty.size() + later.size();
  for (const HotTier::Victim& victim : victims) {
    hot_.Erase(hot_.Find(victim.key));
    if (reads_ > 0) erased_.insert(victim.key);
  }
  return absl::OkStatus();
}

absl::Status Table::Encode(const HotTier::Place& place, ColdStore::Batch* batch) {
  layout_.Encode(hot_.Row(place), &stored_);
  return cold_->Put(number_, place.key(), stored_, batch);
}

absl::Status Table::Decode(uint64_t key, std::string_view stored, const RowRef& row) const {
  absl::Status status = layout_.Decode(stored, row);
  if (status.ok()) return status;  // a message for each row would cost more than the row
  return Annotate(status, absl::StrCat("table ", spec_.name, ", key ", key));
}

absl::StatusOr<std::optional<uint64_t>> Table::VisitRows(const RowRange& range,
                                                         RowVisitor visit) const {
  // Staging of its own: others may visit at the same time.
  std::vector<float> staging(layout_.bytes() / sizeof(float));
  auto* const head = reinterpret_cast<std::byte*>(staging.data());
  const RowRef row = layout_.At(head, head + layout_.head_bytes());
  uint64_t seen = 0, last = 0;
  const auto show = [&](uint64_t key, std::string_view stored) {
    ++seen;
    last = key;
    SAVIOR_RETURN_IF_ERROR(Decode(key, stored, row));
    if (rules_.Forgotten(key, row)) return absl::OkStatus();
    return visit({.key = key,
                  .weights = {row.weights, layout_.dim()},
                  .state = {row.state, layout_.state_floats()},
                  .updates = row.head.updates,
                  .last_step = row.head.last_step});
  };
  SAVIOR_RETURN_IF_ERROR(cold_->Scan(number_, show, range));
  if (seen < range.rows || last == range.last) return std::nullopt;
  return last + 1;
}

absl::Status Table::LoadRules() {
  SAVIOR_ASSIGN_OR_RETURN(const TableRules::SavedEviction before,
                          TableRules::ReadEviction(*cold_, spec_.name));
  SAVIOR_ASSIGN_OR_RETURN(const bool loaded, rules_.Load(*cold_));
  if (loaded || rows_ == 0) return absl::OkStatus();
  // Other rules than before: what these had forgotten stays so.
  ColdStore::Batch batch;
  uint64_t deleted = 0;
  const absl::Status scanned = cold_->Scan(number_, [&](uint64_t key, std::string_view stored) {
    const RowRef row = Staged(0);
    SAVIOR_RETURN_IF_ERROR(Decode(key, stored, row));
    if (!before.Forgotten(key, row, spec_.dim)) {
      rules_.Found(key, row);
      return absl::OkStatus();
    }
    ++deleted;
    return cold_->Delete(number_, key, &batch);
  });
  SAVIOR_RETURN_IF_ERROR(scanned);
  rows_ -= deleted;
  return cold_->Write(&batch);
}

absl::StatusOr<bool> Table::Sweep() {
  if (cut_.has_value() || !held_back_.empty()) return false;
  // A search of the whole table should find something.
  if (!rules_.forget() || (rows_ - rules_.live()) * 16 <= rows_) return false;
  ColdStore::Batch batch;
  std::vector<uint64_t> gone;
  const uint64_t from = sweep_key_;
  uint64_t seen = 0;
  absl::Status status = cold_->Scan(number_,
                                    [&](uint64_t key, std::string_view stored) {
                                      ++seen;
                                      sweep_key_ = key + 1;
                                      if (hot_.Find(key))
                                        return absl::OkStatus();  // its row may be newer: below
                                      const RowRef row = Staged(0);
                                      SAVIOR_RETURN_IF_ERROR(Decode(key, stored, row));
                                      if (!rules_.Forgotten(key, row)) return absl::OkStatus();
                                      gone.push_back(key);
                                      return cold_->Delete(number_, key, &batch);
                                    },
                                    {.from = from, .rows = kSweepRows});
  SAVIOR_RETURN_IF_ERROR(status);
  if (seen < kSweepRows) sweep_key_ = 0;
  hot_.Walk(&sweep_hash_, kSweepRows / HotIndex::kLanes, [&](const HotTier::Place& place) {
    if ((place.marks() & HotTier::kWriting) != 0 || !status.ok()) return;
    if (!rules_.Forgotten(place.key(), hot_.Row(place))) return;
    gone.push_back(place.key());
    status = cold_->Delete(number_, place.key(), &batch);
  });
  SAVIOR_RETURN_IF_ERROR(status);
  if (gone.empty()) return true;
  const absl::Status written = cold_->Write(&batch);
  if (absl::IsResourceExhausted(written)) return false;  // they may stay
  SAVIOR_RETURN_IF_ERROR(written);
  for (const uint64_t key : gone) {
    if (const HotTier::Place place = hot_.Find(key)) hot_.Erase(place);
    if (reads_ > 0) erased_.insert(key);
  }
  rows_ -= gone.size();
  return true;
}

absl::Status Table::SetLimit(uint64_t limit_bytes) {
  limit_bytes_ = limit_bytes;
  hot_.SetLimit(limit_bytes);
  SAVIOR_RETURN_IF_ERROR(MakeRoom(0));
  Maintain();
  return absl::OkStatus();
}

void Table::Hold(Held* held, uint64_t key, const HotTier::Place& place) {
  HotTier::Mark(place, HotTier::kHeld);
  held->keys.push_back(key);
  ++held_rows_;
}

void Table::Release(int64_t from, int64_t until) {
  bool any = false;
  std::erase_if(held_, [&](const Held& held) {
    if (held.step < from || held.step >= until) return false;
    for (const uint64_t key : held.keys) {
      if (const HotTier::Place place = hot_.Find(key)) HotTier::Unmark(place, HotTier::kHeld);
    }
    held_rows_ -= held.keys.size();
    any = true;
    return true;
  });
  if (!any) return;
  // One mark serves all steps: who is held for others, too, stays held.
  for (const Held& held : held_) {
    for (const uint64_t key : held.keys) {
      if (const HotTier::Place place = hot_.Find(key)) HotTier::Mark(place, HotTier::kHeld);
    }
  }
}

std::optional<ColdRead> Table::Hint(int64_t step, std::span<const uint64_t> keys) {
  // Half of the tier stays free for those that nobody hinted.
  const size_t bound = std::min<size_t>(hot_.capacity() / 2, kMaxHeldRows);
  auto held = std::find_if(held_.begin(), held_.end(),
                           [step](const Held& other) { return other.step == step; });
  if (held == held_.end()) {
    if (held_.size() == kMaxHeldSteps) return std::nullopt;
    held = held_.insert(held_.end(), {step, {}});
  }
  ColdRead read{.table = number_, .step = step, .stored_bytes = layout_.stored_bytes()};
  hot_.Find(keys, HotTier::Access::kPeek, [&](size_t i, const HotTier::Place& place) {
    if (held_rows_ + reading_.size() >= bound) return;
    if (place) {
      Hold(&*held, keys[i], place);
    } else if (rows_ > hot_.size() && erased_.size() < kMaxErased &&
               !held_back_.Contains(keys[i]) && reading_.insert(keys[i]).second) {
      read.keys.push_back(keys[i]);
    }
  });
  if (read.keys.empty()) return std::nullopt;
  std::sort(read.keys.begin(), read.keys.end());
  ++reads_;
  return read;
}

absl::Status Table::FinishRead(const ColdRead& read) {
  for (const uint64_t key : read.keys) reading_.erase(key);
  const auto held = std::find_if(held_.begin(), held_.end(),
                                 [&](const Held& other) { return other.step == read.step; });
  absl::Status status = Annotate(read.status, absl::StrCat("table ", spec_.name, ", hint"));
  // No such hint any more: it was cancelled, or its step is over.
  if (status.ok() && held != held_.end()) {
    for (size_t j = 0; j < read.found.size() && status.ok(); ++j) {
      const uint64_t key = read.keys[read.found[j]];
      HotTier::Place place = hot_.Find(key);
      if (!place) {
        if (erased_.contains(key)) continue;  // what was read may be stale
        const std::string_view stored(&read.values[j * read.stored_bytes], read.stored_bytes);
        status = Decode(key, stored, Staged(0));
        if (status.ok() && rules_.Forgotten(key, Staged(0))) continue;
        if (status.ok()) status = MakeRoom(1);
        if (!status.ok() || hot_.size() >= hot_.capacity()) break;
        misses_.assign(1, {key, 0, true});
        place = InsertStaged(0);
        ++stats_.hinted;
      }
      Hold(&*held, key, place);
    }
  }
  if (--reads_ == 0) erased_.clear();
  return absl::IsResourceExhausted(status) ? absl::OkStatus() : status;
}

void Table::CancelHints(int64_t from_step) {
  Release(from_step, std::numeric_limits<int64_t>::max());
}

absl::StatusOr<std::optional<ColdWrite>> Table::CleanAhead() {
  // Worth it when the tier is nearly full, and only for a batch.
  constexpr uint32_t kRows = 1024;
  const uint32_t capacity = hot_.capacity();
  if (writing_ || cut_.has_value() || !held_back_.empty()) return std::nullopt;
  if (hot_.size() < capacity - capacity / 16 || capacity < 16 * kEvictAtLeast) {
    return std::nullopt;
  }
  std::vector<HotTier::Place> dirty =
      hot_.DirtyAhead(std::min(kRows, capacity / 16), capacity / 32);
  if (dirty.size() < kEvictAtLeast) return std::nullopt;
  std::sort(dirty.begin(), dirty.end(),
            [](const HotTier::Place& a, const HotTier::Place& b) { return a.key() < b.key(); });
  ColdWrite write{.table = number_};
  write.keys.reserve(dirty.size());
  for (const HotTier::Place& place : dirty) {
    SAVIOR_RETURN_IF_ERROR(Encode(place, &write.batch));
    write.keys.push_back(place.key());
  }
  for (const HotTier::Place& place : dirty) {
    HotTier::Unmark(place, HotTier::kDirty);
    HotTier::Mark(place, HotTier::kWriting);
  }
  writing_ = true;
  return write;
}

std::optional<PageTouch> Table::TouchAhead() {
  PageTouch touch{hot_.GrowAhead()};
  if (touch.pages.empty()) return std::nullopt;
  return touch;
}

absl::Status Table::FinishWrite(const ColdWrite& write) {
  if (write.of == ColdWrite::Of::kHeld) {
    writing_held_ = false;
    write.status.ok() ? held_back_.Written(write.keys) : held_back_.Failed(write.keys);
  } else {
    writing_ = false;
    for (const uint64_t key : write.keys) {
      const HotTier::Place place = hot_.Find(key);  // it was no victim
      HotTier::Unmark(place, HotTier::kWriting);
      if (!write.status.ok()) HotTier::Mark(place, HotTier::kDirty);
    }
    if (write.status.ok()) stats_.written_back += write.keys.size();
  }
  return absl::IsResourceExhausted(write.status) ? absl::OkStatus() : write.status;
}

}  // namespace savior
