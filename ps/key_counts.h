// How often keys without a row were pushed: of one bucket (common/routing.h) of one table.
//
// A set of fingerprints with counters in slots of 12 bits, without gaps. Of a key's hash, 9 bits
// say its group and 8 to 12 its fingerprint; the rest of the slot is its counter: as many bits as
// `limit` needs, since what is counted to the end is removed. The slots of a group lie together,
// oldest first, and the groups one after the other; 4 bits per group say how many it has.
//
//   bytes    256 for the groups' sizes, 1.5 per key and up to 1/8 of that unused: below 2 per key
//            from 700 keys in the bucket on (3 million of a table's), 1.9 at kMaxKeys
//   early    two keys with the same group and fingerprint are counted as one: at kMaxKeys (4 to a
//            group) a key meets another with probability 4 / 2^(fingerprint's bits): 0.1% for
//            limit 2, 0.2% for 3, 0.4% for 4 and 5, 0.8% up to 9, 1.6% up to 15. Those above 2 are
//            early only if the other's pushes make up what is missing
//   late     at kMaxKeys a hand goes round: it takes one from every counter on its way and forgets
//            the first key that had one only, until there is room (as TinyLFU ages, Einziger et
//            al., 2017, but a key at a time). So it is keys pushed less than once in the time that
//            kMaxKeys others take to come that are forgotten
//
// A counting Bloom filter (4-bit counters, 4 per key for 2 bytes) would admit 15% of keys early at
// limit 2, could neither grow nor give back the room of what is admitted, and ages by halving all.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

// Single-threaded. The state is a function of the pushes so far, in their order.
class KeyCounts {
 public:
  static constexpr uint32_t kGroups = 512;
  static constexpr uint32_t kMaxKeys = 2048;
  static constexpr uint32_t kMaxLimit = 15;

  // limit: 2 .. kMaxLimit.
  explicit KeyCounts(uint32_t limit);

  // Counts a push of the key with this hash (64 random bits). True: it was the limit-th; the key is
  // not counted any more, and its next push would be its first.
  bool Push(uint64_t hash);

  uint32_t keys() const { return keys_; }
  uint32_t limit() const { return limit_; }
  // RAM, this object included.
  size_t bytes() const { return sizeof(*this) + words_.capacity() * sizeof(uint64_t); }

  // Little-endian:
  //
  //   counts := version:u8=1 limit:u8 keys:u16 hand:u16 zero:u16 sizes:u4[512]
  //             words:u64[keys * 12 / 64, rounded up]
  void Encode(std::string* bytes) const;
  // kDataLoss if `bytes` are not such counts.
  [[nodiscard]] static absl::StatusOr<KeyCounts> Decode(std::string_view bytes);

 private:
  static constexpr uint32_t kSlotBits = 12;
  static constexpr uint32_t kMaxGroupSize = 15;

  uint32_t Slot(uint32_t at) const;
  void SetSlot(uint32_t at, uint32_t slot);
  // Between others.
  void InsertSlot(uint32_t at, uint32_t slot);
  void EraseSlot(uint32_t at);

  uint32_t SizeOf(uint32_t group) const { return (sizes_[group / 16] >> (group % 16 * 4)) & 0xf; }
  void AddToSize(uint32_t group, uint64_t difference) {
    sizes_[group / 16] += difference << (group % 16 * 4);
  }
  // Slots of the groups before this one: where it begins.
  uint32_t BeginOf(uint32_t group) const;
  uint32_t GroupAt(uint32_t at) const;
  // Pushes but one.
  uint32_t CounterOf(uint32_t slot) const { return slot & ((1u << counter_bits_) - 1); }

  void Forget(uint32_t group, uint32_t at);
  void ForgetOne();
  void ForgetOneOf(uint32_t group, uint32_t begin);

  uint32_t limit_;
  uint32_t counter_bits_;
  uint32_t keys_ = 0;
  uint32_t hand_ = 0;                              // a slot's place, <= keys_
  std::array<uint64_t, kGroups / 16> sizes_ = {};  // 4 bits each
  std::vector<uint64_t> words_;                    // slots, then at least 52 bits of zeros
};

}  // namespace savior
