#include "ps/hot_tier.h"

#include <glog/logging.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <new>

namespace savior {
namespace {

// The largest power of two of rows that fits a chunk.
uint32_t ChunkShift(size_t row_bytes, size_t chunk_bytes) {
  const size_t rows = std::max<size_t>(chunk_bytes / (row_bytes + 1), 1);
  return static_cast<uint32_t>(std::bit_width(rows)) - 1;
}

}  // namespace

HotTier::HotTier(const RowLayout& layout, uint64_t limit_bytes, size_t chunk_bytes)
    : layout_(layout),
      chunk_shift_(ChunkShift(layout.bytes(), chunk_bytes)),
      chunk_rows_(1u << chunk_shift_) {
  Reindex(kMinIndex);
  SetLimit(limit_bytes);
}

uint64_t HotTier::IndexFor(uint64_t rows) {
  return std::bit_ceil(std::max<uint64_t>((rows * 4 + 2) / 3, kMinIndex));
}

uint64_t HotTier::BytesFor(uint64_t rows) const {
  const uint64_t chunks = (rows + chunk_rows_ - 1) / chunk_rows_;
  return chunks * ChunkBytes() + IndexFor(rows) * sizeof(uint32_t);
}

uint64_t HotTier::bytes() const {
  return chunks_.size() * ChunkBytes() + index_.size() * sizeof(uint32_t);
}

void HotTier::SetLimit(uint64_t limit_bytes) {
  // BytesFor grows with rows: bisect. Slots and index entries are 32 bits.
  uint64_t fits = kMinCapacity;
  uint64_t too_many = uint64_t{3} << 29;
  while (too_many - fits > 1) {
    const uint64_t middle = (fits + too_many) / 2;
    (BytesFor(middle) <= limit_bytes ? fits : too_many) = middle;
  }
  capacity_ = static_cast<uint32_t>(fits);
}

void HotTier::Trim() {
  const size_t needed = (uint64_t{size_} + chunk_rows_ - 1) / chunk_rows_;
  if (needed < chunks_.size()) chunks_.resize(needed);
  if (size_ <= capacity_ && IndexFor(capacity_) < index_.size()) Reindex(IndexFor(size_));
}

uint32_t HotTier::Place(uint64_t key, uint64_t hash) const {
  const uint32_t tag = Entry(hash, 0);
  for (uint32_t place = Home(hash);; place = (place + 1) & mask_) {
    const uint32_t entry = index_[place];
    if (entry == kEmpty) return place;
    if ((entry & ~mask_) == tag && KeyOf(entry & mask_) == key) return place;
  }
}

uint32_t HotTier::Find(uint64_t key) const {
  const uint32_t entry = index_[Place(key, Mix(key))];
  return entry == kEmpty ? kNoSlot : entry & mask_;
}

void HotTier::Find(std::span<const uint64_t> keys, std::span<uint32_t> slots) const {
  // In groups: first all misses of the index are under way at once, then all of the rows.
  constexpr size_t kGroup = 32;
  std::array<uint64_t, kGroup> hashes;
  for (size_t begin = 0; begin < keys.size(); begin += kGroup) {
    const size_t n = std::min(kGroup, keys.size() - begin);
    for (size_t i = 0; i < n; ++i) {
      hashes[i] = Mix(keys[begin + i]);
      __builtin_prefetch(&index_[Home(hashes[i])]);
    }
    for (size_t i = 0; i < n; ++i) {
      // Nearly always the first entry is the one.
      const uint32_t entry = index_[Home(hashes[i])];
      if (entry == kEmpty) continue;
      const std::byte* const row = RowBytes(entry & mask_);
      __builtin_prefetch(row);
      __builtin_prefetch(row + 64);
    }
    for (size_t i = 0; i < n; ++i) {
      const uint32_t entry = index_[Place(keys[begin + i], hashes[i])];
      slots[begin + i] = entry == kEmpty ? kNoSlot : entry & mask_;
    }
  }
}

uint32_t HotTier::Insert(uint64_t key) {
  CHECK_LT(size_, capacity_) << "no room: the owner makes it";
  if (IndexFor(uint64_t{size_} + 1) > index_.size()) Reindex(IndexFor(uint64_t{size_} + 1));
  if (size_ == chunks_.size() * chunk_rows_) {
    // The marks and headers start their life here; the rest of a row is set by who inserts it.
    chunks_.emplace_back(new (std::align_val_t{64}) std::byte[ChunkBytes()]);
  }
  const uint64_t hash = Mix(key);
  const uint32_t place = Place(key, hash);
  CHECK_EQ(index_[place], kEmpty) << "inserted twice";
  const uint32_t slot = size_++;
  index_[place] = Entry(hash, slot);
  new (RowBytes(slot)) RowHeader{.key = key};
  Marks(slot) = kOneUse;
  return slot;
}

void HotTier::Erase(uint32_t slot) {
  CHECK_LT(slot, size_);
  const uint64_t key = KeyOf(slot);
  uint32_t gap = Place(key, Mix(key));
  // Backward shift: an entry behind the gap moves into it unless its home lies behind the gap too,
  // so that no probe ends early and no tombstones pile up.
  for (uint32_t next = (gap + 1) & mask_; index_[next] != kEmpty; next = (next + 1) & mask_) {
    const uint32_t home = Home(Mix(KeyOf(index_[next] & mask_)));
    if (((next - home) & mask_) >= ((next - gap) & mask_)) {
      index_[gap] = index_[next];
      gap = next;
    }
  }
  index_[gap] = kEmpty;

  const uint32_t last = size_ - 1;
  if (slot != last) {
    const uint64_t moved = KeyOf(last);
    const uint64_t hash = Mix(moved);
    index_[Place(moved, hash)] = Entry(hash, slot);
    std::memcpy(RowBytes(slot), RowBytes(last), layout_.bytes());
    Marks(slot) = Marks(last);
  }
  size_ = last;
}

void HotTier::Reindex(uint64_t entries) {
  index_.assign(entries, kEmpty);
  mask_ = static_cast<uint32_t>(entries - 1);
  for (uint32_t slot = 0; slot < size_; ++slot) {
    const uint64_t hash = Mix(KeyOf(slot));
    uint32_t place = Home(hash);
    while (index_[place] != kEmpty) place = (place + 1) & mask_;
    index_[place] = Entry(hash, slot);
  }
}

void HotTier::MarkUsed(uint32_t slot) {
  uint8_t& marks = Marks(slot);
  if ((marks & kUses) != kUses) marks = static_cast<uint8_t>(marks + kOneUse);
}

std::vector<uint32_t> HotTier::PickVictims(uint32_t count) {
  CHECK_LE(count, size_);
  std::vector<uint32_t> victims;
  victims.reserve(count);
  while (victims.size() < count) {
    if (hand_ >= size_) hand_ = 0;
    uint8_t& marks = Marks(hand_);
    if ((marks & kUses) != 0) {
      marks = static_cast<uint8_t>(marks - kOneUse);
    } else if ((marks & kPicked) == 0) {
      marks |= kPicked;  // more than one round may be needed
      victims.push_back(hand_);
    }
    ++hand_;
  }
  for (const uint32_t slot : victims) Marks(slot) &= static_cast<uint8_t>(~kPicked);
  std::sort(victims.begin(), victims.end(), std::greater<>());
  return victims;
}

}  // namespace savior
