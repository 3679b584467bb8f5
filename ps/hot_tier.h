// The rows of one table that are in RAM.
//
// An index (ps/hot_index.h) maps keys to slots; a slot has a head and a body (ps/row.h), in two
// arrays that grow in place. Freed slots are used again, the lowest memory is never given up for
// them; when the limit falls, rows behind it move into free slots, a few at a time.
//
// Overhead per row: 16 to 22.4 B, all of it the index's, which holds the key.
//
// Replacement is CLOCK with counts (GCLOCK): a use adds one up to 3, the hand takes one off, who
// has none goes. A victim is only named here; its owner writes it back if it is dirty, and erases
// it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/arena.h"
#include "ps/hot_index.h"
#include "ps/row.h"

namespace savior {

// Single-threaded.
class HotTier {
 public:
  using Place = HotIndex::Place;

  // Room that there always is, however small the limit: whoever brings up a batch does so in slices
  // of at most this.
  static constexpr uint32_t kMinCapacity = 16;

  enum class Access {
    kPeek,     // leaves no mark
    kRead,     // counts as a use; brings the weights to the cache
    kReadAll,  // the same, and the head
    kUpdate,   // makes the row dirty
  };

  // marks := uses:2 dirty:1 held:1 writing:1 picked:1
  static constexpr uint32_t kUses = 3;
  static constexpr uint32_t kDirty = 4;
  static constexpr uint32_t kHeld = 8;      // wanted soon: not a victim
  static constexpr uint32_t kWriting = 16;  // being written to the cold store: not yet a victim
  static constexpr uint32_t kPicked = 32;   // a victim of the picking under way

  struct Victim {
    uint64_t key = 0;
    bool dirty = false;
  };

  // Holds at most `limit_bytes` of RAM, or kMinCapacity rows if that is more. Later limits are at
  // most `max_bytes`; address space is set aside for twice as much, for an owner who may overrun.
  HotTier(const RowLayout& layout, uint64_t limit_bytes, uint64_t max_bytes);
  HotTier(const HotTier&) = delete;
  HotTier& operator=(const HotTier&) = delete;

  uint32_t size() const { return static_cast<uint32_t>(index_.size()); }
  // Rows that fit the limit. Nothing stops the owner from inserting more.
  uint32_t capacity() const { return capacity_; }
  // RAM held.
  uint64_t bytes() const { return heads_.bytes() + bodies_.bytes() + index_.bytes(); }
  // RAM that `rows` rows need.
  uint64_t BytesFor(uint64_t rows) const;

  // A lower limit takes effect as the owner erases rows; Maintain then gives memory back.
  void SetLimit(uint64_t limit_bytes);
  // Some microseconds' worth of work, per 64 buckets, on a change of size. False: there was none.
  bool Maintain(uint64_t buckets);

  // Memory that insertions will need soon, for Arena::Touch; each piece once, within the limit.
  std::vector<std::span<std::byte>> GrowAhead();

  // Calls visit(i, place of keys[i] or none) for all keys in their order. While a row is visited
  // the next ones are on their way to the cache. visit: must not insert, erase or maintain.
  template <typename Visit>
  void Find(std::span<const uint64_t> keys, Access access, Visit visit) const;
  Place Find(uint64_t key) const { return index_.Find(key); }

  // Adds `key`, which is not there, with its row's memory unset; its marks are one use. Places
  // found before are void then, as after Erase and Maintain; slots and rows stay where they are.
  Place Insert(uint64_t key);
  void Erase(const Place& place);

  RowRef Row(uint32_t slot) const {
    return layout_.At(heads_.data() + slot * head_bytes_, bodies_.data() + slot * body_bytes_);
  }
  RowRef Row(const Place& place) const { return Row(place.slot); }
  static void Mark(const Place& place, uint32_t mark) { place.SetMarks(place.marks() | mark); }
  static void Unmark(const Place& place, uint32_t mark) { place.SetMarks(place.marks() & ~mark); }

  // A cut through the rows, for a checkpoint: from BeginCut to EndCut the tier remembers which rows
  // have come or changed since (the owner says which), a bit a row in memory beyond the limit.
  void BeginCut();
  void EndCut() { std::vector<uint64_t>().swap(changed_); }
  bool Changed(const Place& place) const {
    return (changed_[place.slot / 64] >> (place.slot % 64) & 1) != 0;
  }
  void SetChanged(const Place& place) { SetChanged(place.slot, true); }

  // The next `count` rows to go; fewer if all others are held or being written.
  std::vector<Victim> PickVictims(uint32_t count);
  // Up to `count` dirty rows that the hand will find without uses in its next `span` rows.
  std::vector<Place> DirtyAhead(uint32_t count, uint32_t span) const;

  // Of all rows, how many buckets a lookup goes on from its first one, at most. Looks at every row.
  uint64_t LongestReach() const;

  // All rows in no order of meaning; visit: void(const Place&), which may change marks.
  template <typename Visit>
  void ForEach(Visit visit) const {
    uint64_t hash = 0;
    do {
      index_.Walk(&hash, UINT64_MAX, visit);
    } while (hash != 0);
  }
  // As HotIndex::Walk: a part of ForEach, from `*hash` on, which it moves on; 0 after the last.
  template <typename Visit>
  void Walk(uint64_t* hash, uint64_t buckets, Visit visit) const {
    index_.Walk(hash, buckets, visit);
  }

 private:
  static constexpr uint32_t kNoCompaction = 0xffffffff;
  static constexpr size_t kLine = 64;
  static constexpr size_t kGroup = 16;  // of keys that go through Find's stages together

  // Inlined by force: GCC drops a call of a function that only prefetches, as without effect.
  SAVIOR_INLINE void PrefetchRow(uint32_t slot, Access access) const;
  SAVIOR_INLINE Place FindAndMark(HotIndex::Bucket* home, uint64_t key, Access access) const;
  // Of a slot; without a cut there is nothing to set.
  void SetChanged(uint32_t slot, bool changed);
  // Rows in slots >= compact_to_, while compacting.
  uint64_t RowsBehind() const { return size() + free_.size() - compact_to_; }
  void BeginCompaction();
  void Compact(uint64_t buckets);
  void EndCompaction();

  const RowLayout layout_;
  const size_t head_bytes_;
  const size_t body_bytes_;

  HotIndex index_;
  Arena heads_;
  Arena bodies_;
  uint32_t used_ = 0;  // slots below this have been given out
  // Slots below used_ and compact_to_ without a row, and those from compact_to_ on.
  std::vector<uint32_t> free_;
  std::vector<uint32_t> free_behind_;
  uint32_t compact_to_ = kNoCompaction;  // while compacting rows leave the slots from here on
  uint64_t compact_hash_ = 0;
  uint64_t limit_bytes_ = 0;
  uint32_t capacity_ = 0;
  std::vector<uint64_t> changed_;  // bits by slot, [used_] of them during a cut, else empty
  uint64_t hand_ = 0;              // a hash
  uint32_t turn_ = 0;              // whose turn it is in this round of the hand
};

SAVIOR_INLINE void HotTier::PrefetchRow(uint32_t slot, Access access) const {
  if (access == Access::kPeek) return;
  const std::byte* const body = bodies_.data() + slot * body_bytes_;
  // The first lines; the processor sees the pattern of the rest.
  const size_t bytes =
      std::min(access == Access::kUpdate ? body_bytes_ : layout_.dim() * sizeof(float), 4 * kLine);
  for (size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(body + at);
  if (access != Access::kRead) __builtin_prefetch(heads_.data() + slot * head_bytes_);
}

SAVIOR_INLINE HotTier::Place HotTier::FindAndMark(HotIndex::Bucket* home, uint64_t key,
                                                  Access access) const {
  const Place place = HotIndex::FindFrom(home, key);
  if (!place) return place;
  PrefetchRow(place.slot, access);
  // Written only if it changes: most rows in use have all their uses already.
  const uint32_t marks = place.marks();
  if (access == Access::kUpdate) {
    if ((marks & kDirty) == 0) place.SetMarks(marks | kDirty);
  } else if (access != Access::kPeek && (marks & kUses) != kUses) {
    place.SetMarks(marks + 1);
  }
  return place;
}

template <typename Visit>
void HotTier::Find(std::span<const uint64_t> keys, Access access, Visit visit) const {
  // Three stages, each a group behind the other: index lines of one group are under way while the
  // next group's rows are and the one after is visited.
  std::array<std::array<HotIndex::Bucket*, kGroup>, 2> homes;
  std::array<std::array<Place, kGroup>, 2> places;
  const auto size_of = [&](size_t group) {
    return std::min(kGroup, keys.size() - std::min(keys.size(), group * kGroup));
  };
  const size_t groups = (keys.size() + kGroup - 1) / kGroup;
  for (size_t step = 0; step < groups + 2; ++step) {
    for (size_t i = 0; i < size_of(step); ++i) {
      homes[step % 2][i] = index_.Prefetch(HotIndex::HashOf(keys[step * kGroup + i]));
    }
    if (step >= 1) {
      const size_t group = step - 1;
      for (size_t i = 0; i < size_of(group); ++i) {
        places[group % 2][i] = FindAndMark(homes[group % 2][i], keys[group * kGroup + i], access);
      }
    }
    if (step >= 2) {
      const size_t group = step - 2;
      for (size_t i = 0; i < size_of(group); ++i) visit(group * kGroup + i, places[group % 2][i]);
    }
  }
}

}  // namespace savior
