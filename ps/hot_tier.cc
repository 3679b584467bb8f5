#include "ps/hot_tier.h"

#include <glog/logging.h>

#include <algorithm>
#include <cstring>

namespace savior {
namespace {

// Slots and rows that fit limits: 32 bits, less the index's +1.
constexpr uint64_t kMaxRows = uint64_t{3} << 30;
// Buckets that the hand looks at in one go.
constexpr uint64_t kHandStep = 8;
// The hand takes rows of one turn in a round. Rows lie in the order of their hashes: were all taken
// that it passes, it would leave emptiness behind and find twice the mean ahead, where new rows
// overflow from bucket to bucket over thousands (measured: 250 us a row instead of 4). Like this
// the density differs by an eighth at most.
constexpr uint32_t kTurns = 8;

uint32_t TurnOf(const HotTier::Place& place) {
  // Lower bits than those that say where a row lies.
  return static_cast<uint32_t>(HotIndex::HashOf(place.key())) % kTurns;
}

// Beyond the limit, for an owner who overruns (a full disk).
constexpr uint64_t kSpareBytes = uint64_t{256} << 20;

}  // namespace

HotTier::HotTier(const RowLayout& layout, uint64_t limit_bytes, uint64_t max_bytes)
    : layout_(layout),
      head_bytes_(layout.head_bytes()),
      body_bytes_(layout.body_bytes()),
      heads_((2 * max_bytes + kSpareBytes) / layout.bytes() * layout.head_bytes()),
      bodies_((2 * max_bytes + kSpareBytes) / layout.bytes() * layout.body_bytes()) {
  SetLimit(limit_bytes);
}

uint64_t HotTier::BytesFor(uint64_t rows) const {
  return Arena::Rounded(rows * head_bytes_) + Arena::Rounded(rows * body_bytes_) +
         HotIndex::BytesFor(rows);
}

void HotTier::SetLimit(uint64_t limit_bytes) {
  limit_bytes_ = limit_bytes;
  // BytesFor grows with rows: bisect.
  uint64_t fits = kMinCapacity;
  uint64_t too_many = std::min(kMaxRows, limit_bytes / layout_.bytes() + kMinCapacity + 1);
  while (too_many - fits > 1) {
    const uint64_t middle = (fits + too_many) / 2;
    (BytesFor(middle) <= limit_bytes ? fits : too_many) = middle;
  }
  capacity_ = static_cast<uint32_t>(fits);
}

HotTier::Place HotTier::Insert(uint64_t key) {
  if (size() >= compact_to_) {
    // The limit has risen again, or the owner overruns it: no memory goes for now.
    free_.insert(free_.end(), free_behind_.begin(), free_behind_.end());
    free_behind_.clear();
    compact_to_ = kNoCompaction;
  }
  uint32_t slot = used_;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
  } else {
    ++used_;
    heads_.Grow(used_ * head_bytes_);
    bodies_.Grow(used_ * body_bytes_);
  }
  SetChanged(slot, true);
  return index_.Insert(key, slot, /*marks=*/1);
}

void HotTier::BeginCut() { changed_.assign(used_ / 64 + 1, 0); }

void HotTier::SetChanged(uint32_t slot, bool changed) {
  if (changed_.empty()) return;
  // Twice the room, so that growth costs no more than the rows that come.
  if (slot / 64 >= changed_.size()) changed_.resize(2 * (slot / 64) + 1, 0);
  const uint64_t bit = uint64_t{1} << (slot % 64);
  uint64_t& word = changed_[slot / 64];
  word = changed ? word | bit : word & ~bit;
}

void HotTier::Erase(const Place& place) {
  const uint32_t slot = place.slot;
  index_.Erase(place);
  // kNoCompaction is above every slot.
  (slot < compact_to_ ? free_ : free_behind_).push_back(slot);
}

bool HotTier::Maintain(uint64_t buckets) {
  if (index_.Maintain(buckets)) return true;
  if (compact_to_ == kNoCompaction && size() <= capacity_ && capacity_ < used_ &&
      bytes() > limit_bytes_) {
    BeginCompaction();
  }
  if (compact_to_ == kNoCompaction) return false;
  Compact(buckets);
  return true;
}

std::vector<std::span<std::byte>> HotTier::GrowAhead() {
  std::vector<std::span<std::byte>> pages;
  const auto add = [&](std::span<std::byte> more) {
    if (!more.empty()) pages.push_back(more);
  };
  add(index_.GrowAhead());
  // Free slots come first, and who is about to shrink needs nothing.
  if (!free_.empty() || compact_to_ != kNoCompaction || size() >= capacity_) return pages;
  if (bytes() + Arena::kHugePage <= limit_bytes_) add(bodies_.GrowAhead(used_ * body_bytes_));
  if (bytes() + Arena::kHugePage <= limit_bytes_) add(heads_.GrowAhead(used_ * head_bytes_));
  return pages;
}

void HotTier::BeginCompaction() {
  compact_to_ = capacity_;
  compact_hash_ = 0;
  const auto behind =
      std::partition(free_.begin(), free_.end(), [&](uint32_t slot) { return slot < compact_to_; });
  free_behind_.assign(behind, free_.end());
  free_.erase(behind, free_.end());
}

void HotTier::Compact(uint64_t buckets) {
  const auto move = [this](const Place& place) {
    if (place.slot < compact_to_) return;
    // There is one for each row behind: size() <= compact_to_ when it began, and rows that came
    // since took their slots from the same list.
    CHECK(!free_.empty());
    const uint32_t slot = free_.back();
    free_.pop_back();
    free_behind_.push_back(place.slot);
    std::memcpy(heads_.data() + slot * head_bytes_, heads_.data() + place.slot * head_bytes_,
                head_bytes_);
    std::memcpy(bodies_.data() + slot * body_bytes_, bodies_.data() + place.slot * body_bytes_,
                body_bytes_);
    if (!changed_.empty()) SetChanged(slot, Changed(place));
    place.bucket->slot_plus_1[place.lane] = slot + 1;
  };
  // Rows that erasures moved from behind the hand to before it wait for the next round.
  index_.Walk(&compact_hash_, buckets, move);
  if (RowsBehind() == 0) EndCompaction();
}

void HotTier::EndCompaction() {
  used_ = compact_to_;
  compact_to_ = kNoCompaction;
  free_behind_.clear();
  heads_.Shrink(used_ * head_bytes_);
  bodies_.Shrink(used_ * body_bytes_);
  index_.ShrinkTo(used_);
}

std::vector<HotTier::Victim> HotTier::PickVictims(uint32_t count) {
  std::vector<Victim> victims;
  victims.reserve(count);
  std::vector<Place> picked;
  // Four rounds take every use away, the fifth finds all who may go; of each turn.
  for (uint32_t rounds = 0; victims.size() < count && rounds <= 5 * kTurns;) {
    index_.Walk(&hand_, kHandStep, [&](const Place& place) {
      if (TurnOf(place) != turn_) return;
      const uint32_t marks = place.marks();
      if ((marks & (kHeld | kWriting | kPicked)) != 0 || victims.size() == count) return;
      if ((marks & kUses) != 0) {
        place.SetMarks(marks - 1);
        return;
      }
      place.SetMarks(marks | kPicked);
      picked.push_back(place);
      victims.push_back({place.key(), (marks & kDirty) != 0});
    });
    if (hand_ == 0) {
      turn_ = (turn_ + 1) % kTurns;
      ++rounds;
    }
  }
  for (const Place& place : picked) Unmark(place, kPicked);
  return victims;
}

uint64_t HotTier::LongestReach() const {
  ptrdiff_t longest = 0;
  ForEach([&](const Place& place) {
    longest = std::max(longest, place.bucket - index_.Prefetch(HotIndex::HashOf(place.key())));
  });
  return static_cast<uint64_t>(longest);
}

std::vector<HotTier::Place> HotTier::DirtyAhead(uint32_t count, uint32_t span) const {
  std::vector<Place> dirty;
  uint32_t seen = 0, rounds = 0, turn = turn_;
  uint64_t hash = hand_;
  do {
    index_.Walk(&hash, kHandStep, [&](const Place& place) {
      if (TurnOf(place) != turn) return;
      ++seen;
      const bool idle = (place.marks() & (kUses | kWriting | kHeld)) == 0;
      if (idle && (place.marks() & kDirty) != 0 && dirty.size() < count) dirty.push_back(place);
    });
    if (hash == 0) {
      turn = (turn + 1) % kTurns;
      ++rounds;
    }
  } while (dirty.size() < count && seen < span && rounds < kTurns);
  return dirty;
}

}  // namespace savior
