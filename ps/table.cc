#include "ps/table.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>

#include "common/half.h"
#include "common/simd.h"
#include "ps/optimizer.h"

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

// As memcpy, which is a call where the size is no constant; rows are short.
SAVIOR_INLINE void CopyRow(float* to, const float* from, size_t dim) {
  switch (dim) {
    case 16:
      std::memcpy(to, from, 16 * sizeof(float));
      return;
    case 32:
      std::memcpy(to, from, 32 * sizeof(float));
      return;
    case 64:
      std::memcpy(to, from, 64 * sizeof(float));
      return;
    default:
      std::memcpy(to, from, dim * sizeof(float));
  }
}

size_t PositionOf(const RowSelection& selection, size_t i) {
  return selection.positions.empty() ? i : selection.positions[i];
}

}  // namespace

Table::Table(const TableSpec& spec, uint32_t number, uint64_t seed, uint64_t rows, ColdStore* cold,
             uint64_t limit_bytes, uint64_t max_bytes)
    : spec_(spec),
      number_(number),
      layout_(spec),
      initial_(spec, seed),
      cold_(cold),
      hot_(layout_, limit_bytes, max_bytes),
      limit_bytes_(limit_bytes),
      rows_(rows),
      staging_(kSlice * layout_.bytes() / sizeof(float)) {
  misses_.reserve(kSlice);
  miss_keys_.reserve(kSlice);
}

size_t Table::SliceSize(size_t left) const {
  return std::min({left, kSlice, size_t{hot_.capacity()}});
}

template <typename Hit>
void Table::FindHits(std::span<const uint64_t> keys, HotTier::Access access, Hit hit) {
  misses_.clear();
  hot_.Find(keys, access, [&](size_t i, const HotTier::Place& place) {
    if (place) {
      hit(i, hot_.Row(place));
    } else {
      misses_.push_back({keys[i], static_cast<uint32_t>(i), false});
    }
  });
}

RowRef Table::Staged(size_t miss) {
  auto* const head = reinterpret_cast<std::byte*>(staging_.data()) + miss * layout_.bytes();
  return layout_.At(head, head + layout_.head_bytes());
}

absl::Status Table::Fetch() {
  if (misses_.empty() || rows_ == hot_.size()) return absl::OkStatus();
  std::sort(misses_.begin(), misses_.end(),
            [](const Miss& a, const Miss& b) { return a.key < b.key; });
  miss_keys_.clear();
  for (const Miss& miss : misses_) miss_keys_.push_back(miss.key);
  return cold_->Get(number_, miss_keys_, [this](size_t i, std::string_view stored) {
    Miss& miss = misses_[i];
    miss.found = true;
    return Annotate(layout_.Decode(stored, Staged(i)),
                    absl::StrCat("table ", spec_.name, ", key ", miss.key));
  });
}

HotTier::Place Table::InsertStaged(size_t miss) {
  const HotTier::Place place = hot_.Insert(misses_[miss].key);
  const RowRef staged = Staged(miss);
  const RowRef row = hot_.Row(place);
  std::memcpy(&row.head, &staged.head, layout_.head_bytes());
  std::memcpy(row.weights, staged.weights, layout_.body_bytes());
  return place;
}

absl::Status Table::CacheFound() {
  const auto found = static_cast<size_t>(
      std::count_if(misses_.begin(), misses_.end(), [](const Miss& miss) { return miss.found; }));
  if (found == 0) return absl::OkStatus();
  const absl::Status room = MakeRoom(found);
  // On a full disk reads go on, uncached.
  if (absl::IsResourceExhausted(room)) return absl::OkStatus();
  SAVIOR_RETURN_IF_ERROR(room);
  for (size_t j = 0; j < misses_.size(); ++j) {
    if (misses_[j].found) InsertStaged(j);
  }
  return absl::OkStatus();
}

absl::Status Table::Pull(const RowSelection& selection, float* rows, uint32_t* updates) {
  const size_t dim = layout_.dim();
  const auto copy_out = [&](size_t i, const RowRef& row) {
    const size_t position = PositionOf(selection, i);
    CopyRow(rows + position * dim, row.weights, dim);
    if (updates != nullptr) updates[position] = row.head.updates;
  };
  const auto access = updates == nullptr ? HotTier::Access::kRead : HotTier::Access::kReadAll;
  stats_.pulled += selection.keys.size();
  use_ += selection.keys.size() * layout_.bytes();
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    FindHits(selection.keys.subspan(begin, n), access,
             [&](size_t i, const RowRef& row) { copy_out(begin + i, row); });
    stats_.hot_hits += n - misses_.size();
    SAVIOR_RETURN_IF_ERROR(Fetch());
    for (size_t j = 0; j < misses_.size(); ++j) {
      const Miss& miss = misses_[j];
      if (miss.found) {
        copy_out(begin + miss.index, Staged(j));
        continue;
      }
      const size_t position = PositionOf(selection, begin + miss.index);
      initial_.Write(miss.key, rows + position * dim);
      if (updates != nullptr) updates[position] = 0;
      ++stats_.missing;
    }
    SAVIOR_RETURN_IF_ERROR(CacheFound());
    begin += n;
  }
  return absl::OkStatus();
}

template <typename Update>
absl::Status Table::UpdateSlice(std::span<const uint64_t> keys, Update update) {
  // Hits first: making room for the misses may evict them.
  FindHits(keys, HotTier::Access::kUpdate,
           [&](size_t i, const RowRef& row) { update(i, keys[i], row); });
  SAVIOR_RETURN_IF_ERROR(Fetch());
  const absl::Status room = MakeRoom(misses_.size());
  // On a full disk the table grows beyond its limit for now: see PrepareToWrite.
  if (!room.ok() && !absl::IsResourceExhausted(room)) return room;
  for (size_t j = 0; j < misses_.size(); ++j) {
    const Miss& miss = misses_[j];
    const HotTier::Place place = miss.found ? InsertStaged(j) : hot_.Insert(miss.key);
    HotTier::Mark(place, HotTier::kDirty);
    const RowRef row = hot_.Row(place);
    if (!miss.found) {
      row.head = {};
      initial_.Write(miss.key, row.weights);
      StartState(spec_.optimizer, spec_.dim, row.weights, row.state);
      ++rows_;
      ++stats_.admitted;
    }
    update(miss.index, miss.key, row);
  }
  return absl::OkStatus();
}

absl::Status Table::Push(int64_t step, const RowSelection& selection, const float* grads) {
  Release([step](int64_t held) { return held < step; });
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    SAVIOR_RETURN_IF_ERROR(UpdateSlice(
        selection.keys.subspan(begin, n), [&](size_t i, uint64_t /*key*/, const RowRef& row) {
          row.head.updates += 1;
          row.head.last_step = static_cast<uint32_t>(step);
          ApplyGradient(spec_.optimizer, spec_.dim, row.head.updates,
                        grads + PositionOf(selection, begin + i) * spec_.dim, row.weights,
                        row.state);
        }));
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::Put(const RowSelection& selection, const float* rows) {
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    SAVIOR_RETURN_IF_ERROR(UpdateSlice(
        selection.keys.subspan(begin, n), [&](size_t i, uint64_t /*key*/, const RowRef& row) {
          const float* const in = rows + PositionOf(selection, begin + i) * spec_.dim;
          row.head.updates += 1;
          CopyRow(row.weights, in, spec_.dim);
          if (spec_.dtype != StoreDtype::kFloat16) return;
          for (uint32_t d = 0; d < spec_.dim; ++d) row.weights[d] = FloatOfHalf(HalfOf(in[d]));
        }));
    begin += n;
  }
  return absl::OkStatus();
}

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
  std::vector<uint64_t> dirty;
  for (const HotTier::Victim& victim : victims) {
    if (victim.dirty) dirty.push_back(victim.key);
  }
  if (!dirty.empty()) {
    std::sort(dirty.begin(), dirty.end());
    ColdStore::Batch batch;
    for (const uint64_t key : dirty) SAVIOR_RETURN_IF_ERROR(Encode(hot_.Find(key), &batch));
    // Before the rows leave RAM: if the write fails they are all still here, dirty.
    SAVIOR_RETURN_IF_ERROR(cold_->Write(&batch));
    stats_.written_back += dirty.size();
  }
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

absl::Status Table::WriteBack() {
  std::vector<HotTier::Place> dirty;
  uint64_t hash = 0;
  do {
    dirty.clear();
    hot_.Walk(&hash, kEvictAtMost, [&](const HotTier::Place& place) {
      if ((place.marks() & HotTier::kDirty) != 0) dirty.push_back(place);
    });
    std::sort(dirty.begin(), dirty.end(),
              [](const HotTier::Place& a, const HotTier::Place& b) { return a.key() < b.key(); });
    if (dirty.empty()) continue;
    ColdStore::Batch batch;
    for (const HotTier::Place& place : dirty) SAVIOR_RETURN_IF_ERROR(Encode(place, &batch));
    SAVIOR_RETURN_IF_ERROR(cold_->Write(&batch));
    for (const HotTier::Place& place : dirty) HotTier::Unmark(place, HotTier::kDirty);
  } while (hash != 0);
  return absl::OkStatus();
}

absl::Status Table::ForEachRow(RowVisitor visit) {
  SAVIOR_RETURN_IF_ERROR(WriteBack());
  return cold_->Scan(number_, [&](uint64_t key, std::string_view stored) {
    const RowRef row = Staged(0);
    SAVIOR_RETURN_IF_ERROR(
        Annotate(layout_.Decode(stored, row), absl::StrCat("table ", spec_.name, ", key ", key)));
    return visit({.key = key,
                  .weights = {row.weights, layout_.dim()},
                  .state = {row.state, layout_.state_floats()},
                  .updates = row.head.updates,
                  .last_step = row.head.last_step});
  });
}

absl::Status Table::SetLimit(uint64_t limit_bytes) {
  limit_bytes_ = limit_bytes;
  hot_.SetLimit(limit_bytes);
  SAVIOR_RETURN_IF_ERROR(MakeRoom(0));
  Maintain();
  return absl::OkStatus();
}

TableDemand Table::Demand() {
  // A quarter more than there is: a table that just fits may go on growing until the next division.
  const TableDemand demand{.least = hot_.BytesFor(HotTier::kMinCapacity),
                           .want = hot_.BytesFor(rows_ + rows_ / 4 + HotTier::kMinCapacity),
                           .use = use_};
  use_ /= 2;
  return demand;
}

TableStats Table::Stats() const {
  TableStats stats = stats_;
  stats.name = spec_.name;
  stats.rows = rows_;
  stats.hot_rows = hot_.size();
  stats.hot_bytes = hot_.bytes();
  return stats;
}

// --- ahead of need ---

void Table::Hold(Held* held, uint64_t key, const HotTier::Place& place) {
  HotTier::Mark(place, HotTier::kHeld);
  held->keys.push_back(key);
  ++held_rows_;
}

template <typename Gone>
void Table::Release(Gone gone) {
  bool any = false;
  std::erase_if(held_, [&](const Held& held) {
    if (!gone(held.step)) return false;
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
    } else if (rows_ > hot_.size() && reading_.insert(keys[i]).second) {
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
        status = Annotate(layout_.Decode(stored, Staged(0)),
                          absl::StrCat("table ", spec_.name, ", key ", key));
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
  Release([from_step](int64_t held) { return held >= from_step; });
}

absl::StatusOr<std::optional<ColdWrite>> Table::CleanAhead() {
  // Worth it when the tier is nearly full, and only for a batch.
  constexpr uint32_t kRows = 1024;
  const uint32_t capacity = hot_.capacity();
  if (writing_ || hot_.size() < capacity - capacity / 16 || capacity < 16 * kEvictAtLeast) {
    return std::nullopt;
  }
  std::vector<HotTier::Place> dirty = hot_.DirtyAhead(std::min(kRows, capacity / 16), capacity / 8);
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

absl::Status Table::FinishWrite(const ColdWrite& write) {
  writing_ = false;
  for (const uint64_t key : write.keys) {
    const HotTier::Place place = hot_.Find(key);  // it was no victim
    HotTier::Unmark(place, HotTier::kWriting);
    if (!write.status.ok()) HotTier::Mark(place, HotTier::kDirty);
  }
  if (write.status.ok()) stats_.written_back += write.keys.size();
  return absl::IsResourceExhausted(write.status) ? absl::OkStatus() : write.status;
}

}  // namespace savior
