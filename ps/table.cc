#include "ps/table.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "common/finite.h"
#include "common/simd.h"
#include "ps/optimizer.h"
#include "ps/rounding.h"

namespace savior {
namespace {

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
             uint64_t limit_bytes, uint64_t max_bytes, const RulesOptions& rules)
    : spec_(spec),
      number_(number),
      layout_(spec),
      initial_(spec, seed),
      cold_(cold),
      rules_(spec, number, seed, rules),
      hot_(layout_, limit_bytes, max_bytes),
      limit_bytes_(limit_bytes),
      rows_(rows),
      staging_(kSlice * layout_.bytes() / sizeof(float)) {
  misses_.reserve(kSlice);
  miss_keys_.reserve(kSlice);
  asked_.reserve(kSlice);
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
  asked_.clear();
  const auto stage = [this](size_t m, std::string_view stored) {
    Miss& miss = misses_[m];
    SAVIOR_RETURN_IF_ERROR(Decode(miss.key, stored, Staged(m)));
    miss.stored = true;
    miss.found = !rules_.Forgotten(miss.key, Staged(m));
    return absl::OkStatus();
  };
  for (size_t m = 0; m < misses_.size(); ++m) {
    if (const std::string* const held = held_back_.Find(misses_[m].key)) {
      SAVIOR_RETURN_IF_ERROR(stage(m, *held));
    } else {
      miss_keys_.push_back(misses_[m].key);
      asked_.push_back(m);
    }
  }
  return cold_->Get(number_, miss_keys_,
                    [&](size_t i, std::string_view stored) { return stage(asked_[i], stored); });
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

template <typename Found, typename Missing>
absl::Status Table::ReadSlices(std::span<const uint64_t> keys, HotTier::Access access, Found found,
                               Missing missing) {
  const auto is_missing = [&](size_t i) {
    missing(i);
    ++stats_.missing;
  };
  stats_.pulled += keys.size();
  use_ += keys.size() * layout_.bytes();
  for (size_t begin = 0; begin < keys.size();) {
    const size_t n = SliceSize(keys.size() - begin);
    uint64_t hits = 0;
    FindHits(keys.subspan(begin, n), access, [&](size_t i, const RowRef& row) {
      if (rules_.Forgotten(keys[begin + i], row)) return is_missing(begin + i);
      found(begin + i, row);
      ++hits;
    });
    stats_.hot_hits += hits;
    SAVIOR_RETURN_IF_ERROR(Fetch());
    for (size_t j = 0; j < misses_.size(); ++j) {
      const Miss& miss = misses_[j];
      miss.found ? found(begin + miss.index, Staged(j)) : is_missing(begin + miss.index);
    }
    SAVIOR_RETURN_IF_ERROR(CacheFound());
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::Pull(const RowSelection& selection, float* rows, uint32_t* updates) {
  const size_t dim = layout_.dim();
  const bool heads = updates != nullptr || rules_.forget();
  return ReadSlices(
      selection.keys, heads ? HotTier::Access::kReadAll : HotTier::Access::kRead,
      [&](size_t i, const RowRef& row) {
        const size_t position = PositionOf(selection, i);
        CopyRow(rows + position * dim, row.weights, dim);
        if (updates != nullptr) updates[position] = row.head.updates;
      },
      [&](size_t i) {
        const size_t position = PositionOf(selection, i);
        initial_.Write(selection.keys[i], rows + position * dim);
        if (updates != nullptr) updates[position] = 0;
      });
}

absl::Status Table::ReadRows(const RowSelection& selection, float* rows, uint32_t* updates) {
  const size_t dim = layout_.dim();
  const size_t state = layout_.state_floats();
  return ReadSlices(
      selection.keys, HotTier::Access::kReadAll,
      [&](size_t i, const RowRef& row) {
        const size_t position = PositionOf(selection, i);
        float* const out = rows + position * (dim + state);
        CopyRow(out, row.weights, dim);
        std::copy_n(row.state, state, out + dim);
        updates[position] = row.head.updates;
      },
      [&](size_t i) {
        const size_t position = PositionOf(selection, i);
        float* const out = rows + position * (dim + state);
        initial_.Write(selection.keys[i], out);
        StartState(spec_.optimizer, spec_.dim, out, out + dim);
        updates[position] = 0;
      });
}

void Table::Start(uint64_t key, const RowRef& row) const {
  row.head = {};
  initial_.Write(key, row.weights);
  StartState(spec_.optimizer, spec_.dim, row.weights, row.state);
}

template <typename Admit, typename Update>
absl::Status Table::UpdateSlice(std::span<const uint64_t> keys, Admit admit, Update update) {
  rowless_.clear();
  SaveBeforeChange(keys);
  // Hits first: making room for the misses may evict them.
  FindHits(keys, HotTier::Access::kUpdate, [&](size_t i, const RowRef& row) {
    if (!rules_.Forgotten(keys[i], row)) return update(i, row, /*fresh=*/false);
    rowless_.push_back({static_cast<uint32_t>(i), kNone, row});
  });
  SAVIOR_RETURN_IF_ERROR(Fetch());
  size_t inserts = 0;
  for (uint32_t j = 0; j < misses_.size(); ++j) {
    misses_[j].insert = misses_[j].found;
    inserts += misses_[j].found;
    if (!misses_[j].found) rowless_.push_back({misses_[j].index, j, std::nullopt});
  }
  std::vector<uint32_t> order(rowless_.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [this](uint32_t a, uint32_t b) { return rowless_[a].index < rowless_[b].index; });
  for (const uint32_t r : order) {
    const Rowless& rowless = rowless_[r];
    const uint64_t key = keys[rowless.index];
    if (!admit(key)) continue;
    if (rowless.miss != kNone) {
      misses_[rowless.miss].insert = true;
      ++inserts;
    } else {
      Start(key, *rowless.row);
      update(rowless.index, *rowless.row, /*fresh=*/true);
    }
  }
  absl::Status room = MakeRoom(inserts);
  // On a full disk the table grows beyond its limit for now: see PrepareToWrite.
  if (!room.ok() && !absl::IsResourceExhausted(room)) return room;
  for (size_t j = 0; j < misses_.size(); ++j) {
    const Miss& miss = misses_[j];
    if (!miss.insert) continue;
    const HotTier::Place place = miss.found ? InsertStaged(j) : hot_.Insert(miss.key);
    HotTier::Mark(place, HotTier::kDirty);
    const RowRef row = hot_.Row(place);
    if (!miss.found) Start(miss.key, row);
    if (!miss.stored) ++rows_;
    update(miss.index, row, /*fresh=*/!miss.found);
  }
  return absl::OkStatus();
}

absl::Status Table::Push(int64_t step, const RowSelection& selection, const float* grads) {
  if (spec_.bad_gradients == BadGradients::kReject) return PushFinite(step, selection, grads);
  // Those that are not finite are left out; nearly always there is none.
  std::vector<uint64_t> keys;
  std::vector<uint32_t> positions;
  for (size_t i = 0; i < selection.keys.size(); ++i) {
    const size_t position = PositionOf(selection, i);
    if (!AllWithin({grads + position * spec_.dim, spec_.dim}, std::numeric_limits<float>::max())) {
      ++stats_.skipped;
      continue;
    }
    keys.push_back(selection.keys[i]);
    positions.push_back(static_cast<uint32_t>(position));
  }
  const bool all = keys.size() == selection.keys.size();
  return PushFinite(step, all ? selection : RowSelection{keys, positions}, grads);
}

int64_t Table::Begin(int64_t step) {
  Release(std::numeric_limits<int64_t>::min(), step);
  return rules_.Begin(step);
}

absl::Status Table::PushFinite(int64_t step, const RowSelection& selection, const float* grads) {
  const auto as_of = static_cast<uint32_t>(Begin(step));
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    const std::span<const uint64_t> keys = selection.keys.subspan(begin, n);
    SAVIOR_RETURN_IF_ERROR(UpdateSlice(
        keys, [&](uint64_t key) { return rules_.Admit(key, step); },
        [&](size_t i, const RowRef& row, bool fresh) {
          std::optional<TableRules::Before> before;
          if (!fresh) before = rules_.BeforePush(row);
          row.head.updates += 1;
          row.head.last_step = as_of;
          ApplyGradient(spec_.optimizer, spec_.dim, row.head.updates,
                        grads + PositionOf(selection, begin + i) * spec_.dim, row.weights,
                        row.state);
          rules_.Pushed(keys[i], row, before);
        }));
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::Put(const RowSelection& selection, const float* rows) {
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    SAVIOR_RETURN_IF_ERROR(UpdateSlice(
        selection.keys.subspan(begin, n), [](uint64_t) { return true; },
        [&](size_t i, const RowRef& row, bool /*fresh*/) {
          row.head.updates += 1;
          CopyRow(row.weights, rows + PositionOf(selection, begin + i) * spec_.dim, spec_.dim);
          RoundToNearest(spec_.dtype, {row.weights, spec_.dim});
        }));
    begin += n;
  }
  return absl::OkStatus();
}

absl::Status Table::WriteRows(int64_t step, const RowSelection& selection, const float* rows,
                              const uint32_t* updates) {
  const auto as_of = static_cast<uint32_t>(Begin(step));
  const size_t dim = layout_.dim();
  const size_t state = layout_.state_floats();
  for (size_t begin = 0; begin < selection.keys.size();) {
    const size_t n = SliceSize(selection.keys.size() - begin);
    const std::span<const uint64_t> keys = selection.keys.subspan(begin, n);
    SAVIOR_RETURN_IF_ERROR(UpdateSlice(
        keys, [](uint64_t) { return true; },
        [&](size_t i, const RowRef& row, bool fresh) {
          const size_t position = PositionOf(selection, begin + i);
          const float* const in = rows + position * (dim + state);
          std::optional<TableRules::Before> before;
          if (!fresh) before = rules_.BeforePush(row);
          row.head = {.updates = updates[position], .last_step = as_of};
          CopyRow(row.weights, in, dim);
          std::copy_n(in + dim, state, row.state);
          rules_.Pushed(keys[i], row, before);
        }));
    begin += n;
  }
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
  stats.rows = rows();
  stats.hot_rows = hot_.size();
  stats.hot_bytes = hot_.bytes();
  stats.admitted = rules_.admitted();
  stats.refused = rules_.refused();
  stats.evicted = rules_.evicted();
  return stats;
}

}  // namespace savior
