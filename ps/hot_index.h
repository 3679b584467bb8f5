// The hot tier's index: key -> slot, with a few marks per row.
//
// Flat open addressing in buckets of one cache line: five keys, their slots and their marks. So a
// lookup costs one cache miss, marks included, and the row's own miss can start right behind it. A
// key lives in its home bucket or, if that is full, in the first later one with a free lane.
//
//   bucket := key[5]:u64 slot_plus_1[5]:u32 marks:u32      slot_plus_1: 0 = free lane
//
// Laws: lanes are filled from the first on, without gaps; every bucket between a key's home and its
// place is full. A key's home is its hash scaled to the number of buckets, so homes rise with
// hashes: that makes a change of size a walk from left to right that can stop anywhere between two
// runs of full buckets, and go on at the next insertion. Until it ends, keys whose old home lies
// before `frontier_` are in the new array, the others in the old one; pages of the old one behind
// the frontier are given back on the way, so that a change of size needs no room for both.
//
// At most 4/5 full, and grown by 2/5: 16 to 22.4 bytes per row, the key included.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/random.h"
#include "common/simd.h"
#include "ps/arena.h"

namespace savior {

// Single-threaded.
class HotIndex {
 public:
  static constexpr uint32_t kLanes = 5;
  static constexpr uint32_t kMarkBits = 6;

  struct Bucket {
    uint64_t key[kLanes];
    uint32_t slot_plus_1[kLanes];
    uint32_t marks;

    bool full() const { return slot_plus_1[kLanes - 1] != 0; }
    uint32_t size() const {
      uint32_t n = 0;
      while (n < kLanes && slot_plus_1[n] != 0) ++n;
      return n;
    }
    uint32_t MarksOf(uint32_t lane) const {
      return (marks >> (lane * kMarkBits)) & ((1u << kMarkBits) - 1);
    }
    void SetMarks(uint32_t lane, uint32_t value) {
      const uint32_t shift = lane * kMarkBits;
      marks = (marks & ~(((1u << kMarkBits) - 1) << shift)) | (value << shift);
    }
  };
  static_assert(sizeof(Bucket) == 64);
  static_assert(kLanes * kMarkBits <= 32);

  // Where an entry is. Valid until the next Insert, Erase or Maintain.
  struct Place {
    Bucket* bucket = nullptr;  // null: nowhere
    uint32_t lane = 0;
    uint32_t slot = 0;

    explicit operator bool() const { return bucket != nullptr; }
    uint64_t key() const { return bucket->key[lane]; }
    uint32_t marks() const { return bucket->MarksOf(lane); }
    void SetMarks(uint32_t value) const { bucket->SetMarks(lane, value); }
  };

  HotIndex();
  HotIndex(const HotIndex&) = delete;
  HotIndex& operator=(const HotIndex&) = delete;

  uint64_t size() const { return size_; }
  // RAM that the index takes; and that it would take for `rows` rows.
  uint64_t bytes() const;
  static uint64_t BytesFor(uint64_t rows);

  static uint64_t HashOf(uint64_t key) { return Mix(key); }
  Place Find(uint64_t key) const { return FindIn(*ArrayOf(HashOf(key)), key, HashOf(key)); }
  // As Find, in two parts: calls the first for many keys, then the second for these.
  SAVIOR_INLINE Bucket* Prefetch(uint64_t hash) const {
    const Array& array = *ArrayOf(hash);
    Bucket* const home = array.buckets + array.Home(hash);
    __builtin_prefetch(home);
    return home;
  }
  static SAVIOR_INLINE Place FindFrom(Bucket* home, uint64_t key);

  // `key` is not there; slot < 2^32 - 1. May change the size a bit further.
  Place Insert(uint64_t key, uint32_t slot, uint32_t marks);
  void Erase(const Place& place);

  // Goes on with a change of size, for at least `buckets` buckets' worth. False: none was under
  // way.
  bool Maintain(uint64_t buckets);
  // While a change of size is under way: the next pages that it will write to, once each.
  std::span<std::byte> GrowAhead();
  // Begins to fit the size to `rows` rows, if it is much too large and no change is under way.
  void ShrinkTo(uint64_t rows);

  // Visits the entries whose hashes lie from `*hash` on to where it moves `*hash`, about `buckets`
  // buckets of them; 0 after the last. Insertions, erasures and changes of size between two calls
  // move no entry from one call's range to the other's, so a walk meets every entry that is there
  // all the while exactly once. visit: void(const Place&), may change marks and slots only.
  template <typename Visit>
  void Walk(uint64_t* hash, uint64_t buckets, Visit visit) const;

 private:
  // Entries whose homes are near the end spill behind it. With random keys a few buckets are used;
  // address space is there for as many as keys chosen to collide could fill.
  static constexpr uint64_t kSpill = 64;
  static constexpr uint64_t kMinBuckets = 8;
  // Buckets moved per insertion. A growth is due 1.6 insertions per bucket after the last one, so
  // it is over in a third of that time; and in the meantime the old array fills to 85% at most.
  static constexpr uint64_t kMoveAtInsert = 2;

  struct Array {
    Arena arena{0};
    Bucket* buckets = nullptr;
    uint64_t homes = 0;  // buckets that are homes

    Array() = default;
    explicit Array(uint64_t count);
    uint64_t Home(uint64_t hash) const {
      __extension__ using Wide = unsigned __int128;
      return static_cast<uint64_t>((static_cast<Wide>(hash) * homes) >> 64);
    }
    // The smallest hash whose home is `bucket`; 0 if there is none.
    uint64_t FirstHash(uint64_t bucket) const;
    uint64_t end() const { return 2 * homes + kSpill; }
    bool Has(const Bucket* bucket) const { return bucket >= buckets && bucket < buckets + end(); }
  };

  static uint64_t BucketsFor(uint64_t rows);
  static uint64_t BytesOf(uint64_t homes) { return (homes + kSpill) * sizeof(Bucket); }
  bool resizing() const { return old_.buckets != nullptr; }
  const Array* ArrayOf(uint64_t hash) const {
    return resizing() && old_.Home(hash) >= frontier_ ? &old_ : &now_;
  }
  static Place FindIn(const Array& array, uint64_t key, uint64_t hash) {
    return FindFrom(array.buckets + array.Home(hash), key);
  }
  // Puts an entry into the first free lane from its home on.
  static Place Put(const Array& array, uint64_t key, uint32_t slot_plus_1, uint32_t marks);
  void BeginResize(uint64_t homes);

  Array now_;
  Array old_;              // while resizing
  uint64_t frontier_ = 0;  // buckets of old_ before this have been moved; < old_.homes
  size_t discarded_ = 0;   // bytes of old_ given back
  size_t ahead_ = 0;       // bytes of now_ that GrowAhead has named
  uint64_t size_ = 0;
};

SAVIOR_INLINE HotIndex::Place HotIndex::FindFrom(Bucket* home, uint64_t key) {
  for (Bucket* bucket = home;; ++bucket) {
    // All lanes, without a branch: which one it is cannot be predicted.
    uint32_t matches = 0;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      matches |= static_cast<uint32_t>(bucket->key[lane] == key) << lane;
    }
    // A free lane may hold any key, and several the same.
    for (; matches != 0; matches &= matches - 1) {
      const auto lane = static_cast<uint32_t>(std::countr_zero(matches));
      const uint32_t slot_plus_1 = bucket->slot_plus_1[lane];
      if (slot_plus_1 != 0) return {bucket, lane, slot_plus_1 - 1};
    }
    if (!bucket->full()) return {};
  }
}

template <typename Visit>
void HotIndex::Walk(uint64_t* hash, uint64_t buckets, Visit visit) const {
  if (buckets == 0) return;
  const Array& array = *ArrayOf(*hash);
  // While resizing the new array ends with the hashes before the frontier.
  const bool to_frontier = resizing() && &array == &now_;
  const uint64_t end = to_frontier ? old_.FirstHash(frontier_) : 0;
  const uint64_t first = *hash;
  const uint64_t at = array.Home(first);
  const uint64_t last_home = end == 0 ? array.homes - 1 : array.Home(end - 1);
  const bool all = buckets > last_home - at;
  const uint64_t stop = all ? last_home : at + buckets - 1;  // the last home of this call
  const uint64_t next = all ? end : array.FirstHash(stop + 1);
  // Entries of one home lie from there on in a run of full buckets and one more: what has spilled
  // into this range from before it was visited already, and what has spilled out of it is here.
  for (uint64_t b = at; b <= stop || array.buckets[b - 1].full(); ++b) {
    Bucket& bucket = array.buckets[b];
    for (uint32_t lane = 0; lane < kLanes && bucket.slot_plus_1[lane] != 0; ++lane) {
      const uint64_t of = HashOf(bucket.key[lane]);
      if (of < first || (next != 0 && of >= next)) continue;
      visit(Place{&bucket, lane, bucket.slot_plus_1[lane] - 1});
    }
  }
  *hash = next;
}

}  // namespace savior
