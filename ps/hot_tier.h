// The rows of one table that are in RAM.
//
// Rows lie in slots 0 .. size()-1 of equal chunks, without gaps: erasing moves the last row into
// the gap. An index of 4-byte entries (power of two, linear probing, at most 3/4 full) maps a key's
// hash to its slot. As slots are fewer than index entries, the upper bits of an entry are free, and
// hold a tag of the hash: a probe reads a row only if its tag fits, so a lookup costs one cache
// miss in the index and one in the row.
//
// Overhead per row: index 5.3 to 10.7 B, key 8 B, marks 1 B, padding to 16 B.
//
// Replacement is CLOCK with counts (GCLOCK): a use adds one up to 3, the hand takes one off, who
// has none goes. A victim is only named here; its owner writes it back if it is dirty, and erases
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/random.h"
#include "ps/row.h"

namespace savior {

// Single-threaded.
class HotTier {
 public:
  static constexpr uint32_t kNoSlot = 0xffffffff;
  // Room that there always is, however small the limit: whoever brings up a batch does so in slices
  // of at most this.
  static constexpr uint32_t kMinCapacity = 16;
  // Large enough that the chunks' own list stays in the cache.
  static constexpr size_t kMaxChunkBytes = size_t{256} << 10;

  // Holds at most `limit_bytes` of RAM, or kMinCapacity rows if that is more. Chunks are at most
  // `chunk_bytes`.
  HotTier(const RowLayout& layout, uint64_t limit_bytes, size_t chunk_bytes = kMaxChunkBytes);
  HotTier(const HotTier&) = delete;
  HotTier& operator=(const HotTier&) = delete;

  uint32_t size() const { return size_; }
  // Rows that fit the limit.
  uint32_t capacity() const { return capacity_; }
  // RAM held: chunks and index.
  uint64_t bytes() const;

  // A lower limit takes effect as the owner erases rows; Trim then gives memory back.
  void SetLimit(uint64_t limit_bytes);
  void Trim();

  // slots[i] = the slot of keys[i] or kNoSlot. A slot is valid until the next Insert or Erase.
  void Find(std::span<const uint64_t> keys, std::span<uint32_t> slots) const;
  uint32_t Find(uint64_t key) const;

  // Adds `key`, which is not there, with its row's memory unset but for the key; returns its slot.
  // There must be room: size() < capacity().
  uint32_t Insert(uint64_t key);
  void Erase(uint32_t slot);

  RowRef Row(uint32_t slot) const { return layout_.At(RowBytes(slot)); }

  void MarkUsed(uint32_t slot);
  bool IsDirty(uint32_t slot) const { return (Marks(slot) & kDirty) != 0; }
  void MarkDirty(uint32_t slot) { Marks(slot) |= kDirty; }
  void MarkClean(uint32_t slot) { Marks(slot) &= static_cast<uint8_t>(~kDirty); }

  // The next `count` rows to go, as slots in descending order: erased in this order, the slots yet
  // to come stay valid. count <= size().
  std::vector<uint32_t> PickVictims(uint32_t count);

  // RAM that `rows` rows need.
  uint64_t BytesFor(uint64_t rows) const;

 private:
  static constexpr uint32_t kEmpty = 0xffffffff;  // no entry: slot bits all ones are never a slot
  static constexpr uint32_t kMinIndex = 32;
  // marks := dirty:1 uses:2 picked:1
  static constexpr uint8_t kDirty = 1;
  static constexpr uint8_t kOneUse = 2;
  static constexpr uint8_t kUses = 6;
  static constexpr uint8_t kPicked = 8;

  struct AlignedDelete {
    void operator()(std::byte* chunk) const { ::operator delete[](chunk, std::align_val_t{64}); }
  };
  // rows [chunk_rows_][layout_.bytes()], then marks [chunk_rows_].
  using Chunk = std::unique_ptr<std::byte[], AlignedDelete>;

  std::byte* RowBytes(uint32_t slot) const {
    return chunks_[slot >> chunk_shift_].get() + (slot & (chunk_rows_ - 1)) * layout_.bytes();
  }
  uint8_t& Marks(uint32_t slot) const {
    std::byte* const marks =
        chunks_[slot >> chunk_shift_].get() + size_t{chunk_rows_} * layout_.bytes();
    return *reinterpret_cast<uint8_t*>(marks + (slot & (chunk_rows_ - 1)));
  }
  uint64_t KeyOf(uint32_t slot) const { return Row(slot).header.key; }
  size_t ChunkBytes() const { return size_t{chunk_rows_} * (layout_.bytes() + 1); }

  // Index entries for `rows` rows.
  static uint64_t IndexFor(uint64_t rows);
  // A hash's first place in the index, and its entry for `slot`.
  uint32_t Home(uint64_t hash) const { return static_cast<uint32_t>(hash) & mask_; }
  uint32_t Entry(uint64_t hash, uint32_t slot) const {
    return (static_cast<uint32_t>(hash >> 32) & ~mask_) | slot;
  }
  // The place of `key`, or of the empty entry that ends its probe.
  uint32_t Place(uint64_t key, uint64_t hash) const;
  void Reindex(uint64_t entries);

  const RowLayout layout_;
  const uint32_t chunk_shift_;
  const uint32_t chunk_rows_;

  std::vector<Chunk> chunks_;
  std::vector<uint32_t> index_;  // slot in the mask_ bits, tag above
  uint32_t mask_ = 0;            // index_.size() - 1
  uint32_t size_ = 0;
  uint32_t capacity_ = 0;
  uint32_t hand_ = 0;
};

}  // namespace savior
