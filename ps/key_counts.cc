#include "ps/key_counts.h"

#include <algorithm>
#include <bit>

#include "ps/packed_bytes.h"

namespace savior {
namespace {

constexpr uint8_t kVersion = 1;

// The sum of sixteen 4-bit numbers.
constexpr uint32_t SumOfSizes(uint64_t sizes) {
  const uint64_t pairs = (sizes & 0x0f0f0f0f0f0f0f0fULL) + ((sizes >> 4) & 0x0f0f0f0f0f0f0f0fULL);
  return static_cast<uint32_t>((pairs * 0x0101010101010101ULL) >> 56);  // <= 240
}

constexpr uint64_t LowBits(uint32_t n) { return (uint64_t{1} << n) - 1; }  // n < 64

// One more than the slots need: a slot may be read with the word after it.
constexpr size_t WordsFor(uint32_t keys, uint32_t slot_bits) {
  return (size_t{keys} * slot_bits + 63) / 64 + 1;
}

}  // namespace

KeyCounts::KeyCounts(uint32_t limit)
    : limit_(limit),
      // Counters go from 0 (one push) to limit - 2: the next push is the last.
      counter_bits_(static_cast<uint32_t>(std::bit_width(limit - 2))) {}

uint32_t KeyCounts::Slot(uint32_t at) const {
  const uint32_t bit = at * kSlotBits;
  const uint32_t offset = bit % 64;
  uint64_t slot = words_[bit / 64] >> offset;
  if (offset > 64 - kSlotBits) slot |= words_[bit / 64 + 1] << (64 - offset);
  return static_cast<uint32_t>(slot & LowBits(kSlotBits));
}

void KeyCounts::SetSlot(uint32_t at, uint32_t slot) {
  const uint32_t bit = at * kSlotBits;
  const uint32_t offset = bit % 64;
  uint64_t* const word = &words_[bit / 64];
  word[0] = (word[0] & ~(LowBits(kSlotBits) << offset)) | (uint64_t{slot} << offset);
  if (offset <= 64 - kSlotBits) return;
  const uint32_t done = 64 - offset;
  word[1] = (word[1] & ~(LowBits(kSlotBits) >> done)) | (uint64_t{slot} >> done);
}

void KeyCounts::InsertSlot(uint32_t at, uint32_t slot) {
  const size_t words = WordsFor(keys_ + 1, kSlotBits);
  if (words > words_.capacity()) words_.reserve(words + std::max<size_t>(5, words / 8));
  words_.resize(words, 0);
  const uint32_t bit = at * kSlotBits;
  const size_t first = bit / 64;
  for (size_t w = words - 1; w > first + 1; --w) {
    words_[w] = (words_[w] << kSlotBits) | (words_[w - 1] >> (64 - kSlotBits));
  }
  // What lies before `at` stays.
  const uint64_t stays = words_[first] & LowBits(bit % 64);
  const uint64_t moves = words_[first] & ~LowBits(bit % 64);
  words_[first + 1] = (words_[first + 1] << kSlotBits) | (moves >> (64 - kSlotBits));
  words_[first] = stays | (moves << kSlotBits);
  SetSlot(at, slot);
  ++keys_;
  // The hand stays where it is among the others, a new key behind it.
  if (at <= hand_) ++hand_;
}

void KeyCounts::EraseSlot(uint32_t at) {
  const uint32_t bit = at * kSlotBits;
  const size_t first = bit / 64;
  const uint64_t stays = words_[first] & LowBits(bit % 64);
  for (size_t w = first; w + 1 < words_.size(); ++w) {
    words_[w] = (words_[w] >> kSlotBits) | (words_[w + 1] << (64 - kSlotBits));
  }
  words_.back() >>= kSlotBits;
  words_[first] = stays | (words_[first] & ~LowBits(bit % 64));
  --keys_;
  if (at < hand_) --hand_;
  words_.resize(WordsFor(keys_, kSlotBits));
}

uint32_t KeyCounts::BeginOf(uint32_t group) const {
  uint32_t begin = 0;
  for (uint32_t w = 0; w < group / 16; ++w) begin += SumOfSizes(sizes_[w]);
  return begin + SumOfSizes(sizes_[group / 16] & LowBits(group % 16 * 4));
}

uint32_t KeyCounts::GroupAt(uint32_t at) const {
  uint32_t word = 0;
  uint32_t end = SumOfSizes(sizes_[0]);
  while (end <= at) end += SumOfSizes(sizes_[++word]);
  uint32_t group = word * 16;
  end = end - SumOfSizes(sizes_[word]) + SizeOf(group);
  while (end <= at) end += SizeOf(++group);
  return group;
}

void KeyCounts::Forget(uint32_t group, uint32_t at) {
  EraseSlot(at);
  AddToSize(group, ~uint64_t{0});  // -1
}

void KeyCounts::ForgetOne() {
  // At most kMaxLimit rounds; mostly a step or two, most keys having been pushed once.
  for (;; ++hand_) {
    if (hand_ >= keys_) hand_ = 0;
    const uint32_t slot = Slot(hand_);
    if (CounterOf(slot) == 0) break;
    SetSlot(hand_, slot - 1);
  }
  Forget(GroupAt(hand_), hand_);
}

void KeyCounts::ForgetOneOf(uint32_t group, uint32_t begin) {
  uint32_t least = begin;
  for (uint32_t at = begin + 1; at < begin + kMaxGroupSize; ++at) {
    if (CounterOf(Slot(at)) < CounterOf(Slot(least))) least = at;
  }
  Forget(group, least);
}

bool KeyCounts::Push(uint64_t hash) {
  const auto group = static_cast<uint32_t>(hash >> 55);
  static_assert(kGroups == 1u << (64 - 55));
  const auto print = static_cast<uint32_t>(hash & LowBits(kSlotBits - counter_bits_));
  const uint32_t begin = BeginOf(group);
  for (uint32_t at = begin; at < begin + SizeOf(group); ++at) {
    const uint32_t slot = Slot(at);
    if (slot >> counter_bits_ != print) continue;
    if (CounterOf(slot) + 2 < limit_) {
      SetSlot(at, slot + 1);
      return false;
    }
    Forget(group, at);
    return true;
  }
  if (SizeOf(group) == kMaxGroupSize) {
    ForgetOneOf(group, begin);
  } else if (keys_ == kMaxKeys) {
    ForgetOne();
  }
  InsertSlot(BeginOf(group) + SizeOf(group), print << counter_bits_);
  AddToSize(group, 1);
  return false;
}

void KeyCounts::Encode(std::string* bytes) const {
  bytes->clear();
  AppendNumber(kVersion, bytes);
  AppendNumber(static_cast<uint8_t>(limit_), bytes);
  AppendNumber(static_cast<uint16_t>(keys_), bytes);
  AppendNumber(static_cast<uint16_t>(hand_), bytes);
  AppendNumber(uint16_t{0}, bytes);
  AppendNumbers<uint64_t>(sizes_, bytes);
  if (keys_ == 0) return;
  AppendNumbers(std::span(words_).first(WordsFor(keys_, kSlotBits) - 1), bytes);
}

absl::StatusOr<KeyCounts> KeyCounts::Decode(std::string_view bytes) {
  const absl::Status malformed = absl::DataLossError("counts of keys without a row are malformed");
  uint8_t version = 0;
  uint8_t limit = 0;
  uint16_t keys = 0;
  uint16_t hand = 0;
  uint16_t zero = 0;
  if (!TakeNumber(&bytes, &version) || version != kVersion || !TakeNumber(&bytes, &limit) ||
      limit < 2 || limit > kMaxLimit || !TakeNumber(&bytes, &keys) || keys > kMaxKeys ||
      !TakeNumber(&bytes, &hand) || hand > keys || !TakeNumber(&bytes, &zero) || zero != 0) {
    return malformed;
  }
  KeyCounts counts(limit);
  counts.hand_ = hand;
  counts.keys_ = keys;
  if (!TakeNumbers<uint64_t>(&bytes, counts.sizes_)) return malformed;
  uint32_t sum = 0;
  for (const uint64_t sizes : counts.sizes_) sum += SumOfSizes(sizes);
  const size_t words = WordsFor(keys, kSlotBits) - 1;
  if (sum != keys || bytes.size() != words * sizeof(uint64_t)) return malformed;
  counts.words_.resize(words + 1, 0);
  if (!TakeNumbers(&bytes, std::span(counts.words_).first(words))) return malformed;
  for (uint32_t at = 0; at < keys; ++at) {
    if (counts.CounterOf(counts.Slot(at)) + 2 > limit) return malformed;
  }
  // Insertion counts on zeros behind the slots.
  const uint32_t rest = uint32_t{keys} * kSlotBits % 64;
  if (rest != 0 && counts.words_[words - 1] >> rest != 0) return malformed;
  return counts;
}

}  // namespace savior
