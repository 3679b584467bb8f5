#include "ps/table.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>

#include "common/half.h"
#include "ps/optimizer.h"

namespace savior {
namespace {

// Evictions are in groups of at least this, if that is no more than a sixteenth of the tier: a
// write to the cold store has a price of its own.
constexpr uint32_t kEvictAtLeast = 256;
// And of at most this, which bounds the batch.
constexpr uint32_t kEvictAtMost = 4096;

// A tier's last chunk is half empty on average: small tiers have small chunks.
size_t ChunkBytes(uint64_t limit_bytes) {
  return std::clamp<uint64_t>(limit_bytes / 64, size_t{4} << 10, HotTier::kMaxChunkBytes);
}

}  // namespace

Table::Table(const TableSpec& spec, uint32_t number, uint64_t seed, uint64_t rows, ColdStore* cold,
             uint64_t limit_bytes)
    : spec_(spec),
      number_(number),
      layout_(spec),
      initial_(spec, seed),
      cold_(cold),
      hot_(layout_, limit_bytes, ChunkBytes(limit_bytes)),
      rows_(rows),
      slots_(kSlice),
      staging_(kSlice * layout_.bytes() / sizeof(Staging)) {
  misses_.reserve(kSlice);
  miss_keys_.reserve(kSlice);
}

size_t Table::SliceSize(size_t left) const {
  return std::min({left, kSlice, size_t{hot_.capacity()}});
}

void Table::FindAndSplit(std::span<const uint64_t> keys) {
  hot_.Find(keys, slots_);
  misses_.clear();
  for (size_t i = 0; i < keys.size(); ++i) {
    if (slots_[i] == HotTier::kNoSlot) {
      misses_.push_back({keys[i], static_cast<uint32_t>(i), false});
    }
  }
}

RowRef Table::Staged(size_t miss) {
  return layout_.At(staging_.data()->bytes + miss * layout_.bytes());
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

uint32_t Table::InsertStaged(size_t miss) {
  const uint32_t slot = hot_.Insert(misses_[miss].key);
  const RowRef staged = Staged(miss);
  const RowRef row = hot_.Row(slot);
  row.header.updates = staged.header.updates;
  row.header.last_step = staged.header.last_step;
  std::memcpy(row.weights, staged.weights,
              (layout_.dim() + layout_.state_floats()) * sizeof(float));
  return slot;
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
    const size_t position = selection.positions[i];
    std::memcpy(rows + position * dim, row.weights, dim * sizeof(float));
    if (updates != nullptr) updates[position] = row.header.updates;
  };
  stats_.pulled += selection.keys.size();
  use_ += selection.keys.size() * layout_.bytes();
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    FindAndSplit(selection.keys.subspan(begin, n));
    for (size_t i = 0; i < n; ++i) {
      if (slots_[i] == HotTier::kNoSlot) continue;
      copy_out(begin + i, hot_.Row(slots_[i]));
      hot_.MarkUsed(slots_[i]);
    }
    stats_.hot_hits += n - misses_.size();
    SAVIOR_RETURN_IF_ERROR(Fetch());
    for (size_t j = 0; j < misses_.size(); ++j) {
      const Miss& miss = misses_[j];
      if (miss.found) {
        copy_out(begin + miss.index, Staged(j));
        continue;
      }
      const size_t position = selection.positions[begin + miss.index];
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
  FindAndSplit(keys);
  // Hits first: making room for the misses may evict them.
  for (size_t i = 0; i < keys.size(); ++i) {
    if (slots_[i] == HotTier::kNoSlot) continue;
    hot_.MarkDirty(slots_[i]);
    update(i, hot_.Row(slots_[i]));
  }
  SAVIOR_RETURN_IF_ERROR(Fetch());
  SAVIOR_RETURN_IF_ERROR(MakeRoom(misses_.size()));
  for (size_t j = 0; j < misses_.size(); ++j) {
    const Miss& miss = misses_[j];
    const uint32_t slot = miss.found ? InsertStaged(j) : hot_.Insert(miss.key);
    const RowRef row = hot_.Row(slot);
    if (!miss.found) {
      initial_.Write(miss.key, row.weights);
      StartState(spec_.optimizer, spec_.dim, row.weights, row.state);
      ++rows_;
    }
    hot_.MarkDirty(slot);
    update(miss.index, row);
  }
  return absl::OkStatus();
}

absl::Status Table::Push(int64_t step, const RowSelection& selection, const float* grads) {
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    SAVIOR_RETURN_IF_ERROR(
        UpdateSlice(selection.keys.subspan(begin, n), [&](size_t i, const RowRef& row) {
          row.header.updates += 1;
          row.header.last_step = static_cast<uint32_t>(step);
          ApplyGradient(spec_.optimizer, spec_.dim, row.header.updates,
                        grads + size_t{selection.positions[begin + i]} * spec_.dim, row.weights,
                        row.state);
        }));
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::Put(const RowSelection& selection, const float* rows) {
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    SAVIOR_RETURN_IF_ERROR(
        UpdateSlice(selection.keys.subspan(begin, n), [&](size_t i, const RowRef& row) {
          const float* const in = rows + size_t{selection.positions[begin + i]} * spec_.dim;
          row.header.updates += 1;
          std::copy_n(in, spec_.dim, row.weights);
          if (spec_.dtype != StoreDtype::kFloat16) return;
          for (uint32_t d = 0; d < spec_.dim; ++d) row.weights[d] = FloatOfHalf(HalfOf(in[d]));
        }));
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::BringUp(std::span<const uint64_t> keys) {
  for (size_t begin = 0; begin < keys.size();) {
    const size_t n = SliceSize(keys.size() - begin);
    FindAndSplit(keys.subspan(begin, n));
    std::sort(misses_.begin(), misses_.end(),
              [](const Miss& a, const Miss& b) { return a.key < b.key; });
    misses_.erase(std::unique(misses_.begin(), misses_.end(),
                              [](const Miss& a, const Miss& b) { return a.key == b.key; }),
                  misses_.end());
    SAVIOR_RETURN_IF_ERROR(Fetch());
    SAVIOR_RETURN_IF_ERROR(CacheFound());
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::MakeRoom(size_t rows) {
  while (hot_.size() + rows > hot_.capacity()) {
    const auto excess = static_cast<uint32_t>(hot_.size() + rows - hot_.capacity());
    const uint32_t group =
        std::clamp(excess, std::min(kEvictAtLeast, hot_.capacity() / 16), kEvictAtMost);
    SAVIOR_RETURN_IF_ERROR(Evict(std::min(group, hot_.size())));
  }
  return absl::OkStatus();
}

absl::Status Table::Evict(uint32_t rows) {
  const std::vector<uint32_t> victims = hot_.PickVictims(rows);
  ColdStore::Batch batch;
  uint64_t dirty = 0;
  for (const uint32_t slot : victims) {
    if (!hot_.IsDirty(slot)) continue;
    SAVIOR_RETURN_IF_ERROR(WriteRow(slot, &batch));
    ++dirty;
  }
  // Before the rows leave RAM: if the write fails they are all still here, dirty.
  if (dirty > 0) SAVIOR_RETURN_IF_ERROR(cold_->Write(&batch));
  for (const uint32_t slot : victims) hot_.Erase(slot);
  stats_.written_back += dirty;
  return absl::OkStatus();
}

absl::Status Table::WriteRow(uint32_t slot, ColdStore::Batch* batch) {
  const RowRef row = hot_.Row(slot);
  layout_.Encode(row, &stored_);
  return cold_->Put(number_, row.header.key, stored_, batch);
}

absl::Status Table::WriteBack() {
  for (uint32_t slot = 0; slot < hot_.size();) {
    ColdStore::Batch batch;
    std::vector<uint32_t> written;
    for (; slot < hot_.size() && written.size() < kEvictAtMost; ++slot) {
      if (!hot_.IsDirty(slot)) continue;
      SAVIOR_RETURN_IF_ERROR(WriteRow(slot, &batch));
      written.push_back(slot);
    }
    if (!written.empty()) SAVIOR_RETURN_IF_ERROR(cold_->Write(&batch));
    for (const uint32_t clean : written) hot_.MarkClean(clean);
  }
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
                  .updates = row.header.updates,
                  .last_step = row.header.last_step});
  });
}

absl::Status Table::SetLimit(uint64_t limit_bytes) {
  hot_.SetLimit(limit_bytes);
  SAVIOR_RETURN_IF_ERROR(MakeRoom(0));
  hot_.Trim();
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

}  // namespace savior
