#include "ps/hot_index.h"

#include <glog/logging.h>

#include <utility>

namespace savior {

HotIndex::Array::Array(uint64_t count) : arena((2 * count + kSpill) * sizeof(Bucket)) {
  homes = count;
  arena.Grow(end() * sizeof(Bucket));  // takes pages when they are touched
  buckets = reinterpret_cast<Bucket*>(arena.data());
}

uint64_t HotIndex::Array::FirstHash(uint64_t bucket) const {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(((static_cast<Wide>(bucket) << 64) + homes - 1) / homes);
}

HotIndex::HotIndex() : now_(kMinBuckets) {}

uint64_t HotIndex::BucketsFor(uint64_t rows) {
  uint64_t homes = kMinBuckets;
  while (rows > homes * (kLanes - 1)) homes = homes * 7 / 5 + 1;
  return homes;
}

uint64_t HotIndex::BytesFor(uint64_t rows) { return BytesOf(BucketsFor(rows)); }

uint64_t HotIndex::bytes() const {
  if (!resizing()) return BytesOf(now_.homes);
  const double moved = static_cast<double>(frontier_) / static_cast<double>(old_.homes);
  return static_cast<uint64_t>(moved * static_cast<double>(BytesOf(now_.homes))) +
         BytesOf(old_.homes) - std::min<uint64_t>(discarded_, BytesOf(old_.homes));
}

HotIndex::Place HotIndex::Put(const Array& array, uint64_t key, uint32_t slot_plus_1,
                              uint32_t marks) {
  Bucket* bucket = array.buckets + array.Home(HashOf(key));
  while (bucket->full()) ++bucket;
  const uint32_t lane = bucket->size();
  bucket->key[lane] = key;
  bucket->slot_plus_1[lane] = slot_plus_1;
  bucket->SetMarks(lane, marks);
  return {bucket, lane, slot_plus_1 - 1};
}

HotIndex::Place HotIndex::Insert(uint64_t key, uint32_t slot, uint32_t marks) {
  if (++size_ > now_.homes * (kLanes - 1)) {
    Maintain(UINT64_MAX);  // a shrinking that has been overtaken
    BeginResize(BucketsFor(size_));
  }
  Maintain(kMoveAtInsert);
  return Put(*ArrayOf(HashOf(key)), key, slot + 1, marks);
}

void HotIndex::Erase(const Place& place) {
  const Array& array = resizing() && old_.Has(place.bucket) ? old_ : now_;
  Place gap = place;
  for (Bucket* from = gap.bucket;;) {
    // Was an entry behind a full bucket there only because of that? Then it moves into the gap.
    const bool was_full = gap.bucket->full();
    const uint32_t last = gap.bucket->size() - 1;
    gap.bucket->key[gap.lane] = gap.bucket->key[last];
    gap.bucket->slot_plus_1[gap.lane] = gap.bucket->slot_plus_1[last];
    gap.bucket->SetMarks(gap.lane, gap.bucket->MarksOf(last));
    gap.bucket->slot_plus_1[last] = 0;
    if (!was_full) break;

    const auto here = static_cast<uint64_t>(gap.bucket - array.buckets);
    Place next;
    do {
      ++from;
      for (uint32_t lane = 0; lane < kLanes && from->slot_plus_1[lane] != 0 && !next; ++lane) {
        if (array.Home(HashOf(from->key[lane])) <= here) next = {from, lane, 0};
      }
    } while (!next && from->full());
    if (!next) break;
    gap.bucket->key[last] = next.key();
    gap.bucket->slot_plus_1[last] = next.bucket->slot_plus_1[next.lane];
    gap.bucket->SetMarks(last, next.marks());
    gap = next;
  }
  --size_;
}

void HotIndex::BeginResize(uint64_t homes) {
  old_ = std::exchange(now_, Array(homes));
  frontier_ = 0;
  discarded_ = 0;
  ahead_ = 0;
}

std::span<std::byte> HotIndex::GrowAhead() {
  if (!resizing()) return {};
  const size_t written = now_.Home(old_.FirstHash(frontier_)) * sizeof(Bucket);
  const size_t begin = std::max(ahead_, written / Arena::kHugePage * Arena::kHugePage);
  const size_t end = begin + Arena::kHugePage;
  if (begin >= written + 2 * Arena::kHugePage || end > BytesOf(now_.homes)) return {};
  ahead_ = end;
  return {now_.arena.data() + begin, Arena::kHugePage};
}

bool HotIndex::Maintain(uint64_t buckets) {
  if (!resizing()) return false;
  bool boundary = true;  // no entry behind the frontier has its home before it: so it was left
  for (uint64_t moved = 0; (moved < buckets && frontier_ < old_.homes) || !boundary; ++moved) {
    const Bucket& bucket = old_.buckets[frontier_];
    __builtin_prefetch(&bucket + 8);
    for (uint32_t lane = 0; lane < bucket.size(); ++lane) {
      Put(now_, bucket.key[lane], bucket.slot_plus_1[lane], bucket.MarksOf(lane));
    }
    boundary = !bucket.full();
    ++frontier_;
  }
  // At once: no hash has its home behind the last one, so Walk has no place for such a frontier.
  if (frontier_ >= old_.homes) {
    old_ = Array();
    return true;
  }
  const size_t behind = frontier_ * sizeof(Bucket);
  if (behind >= discarded_ + Arena::kHugePage) {
    old_.arena.Discard(discarded_, behind);
    discarded_ = behind / Arena::kHugePage * Arena::kHugePage;
  }
  return true;
}

void HotIndex::ShrinkTo(uint64_t rows) {
  const uint64_t homes = BucketsFor(std::max(rows, size_));
  if (!resizing() && 2 * homes <= now_.homes) BeginResize(homes);
}

}  // namespace savior
