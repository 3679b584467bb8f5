// Deduplication on the worker's side: a store wants each key once, a batch has popular ones often.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/random.h"

namespace savior {

// Numbers keys 0, 1, 2, ... in the order in which they are first seen, and collects them. Single-
// threaded. An open-addressed table of 16 B entries, at most half full: 32 to 64 B per key.
class UniqueKeys {
 public:
  // `keys` is empty, and outlives this; new keys are added to it.
  explicit UniqueKeys(std::vector<uint64_t>* keys) : keys_(keys), places_(kLeastPlaces) {}

  int64_t Number(uint64_t key) {
    size_t at = Mix(key) & (places_.size() - 1);
    while (places_[at].number != 0) {
      if (places_[at].key == key) return places_[at].number - 1;
      at = (at + 1) & (places_.size() - 1);
    }
    keys_->push_back(key);
    const auto number = static_cast<int64_t>(keys_->size());
    places_[at] = {key, number};
    if (2 * keys_->size() > places_.size()) Grow(2 * places_.size());
    return number - 1;
  }

  // numbers[i] = the number of keys[i]; [n]. Faster than one by one: lookups overlap.
  void NumberAll(std::span<const uint64_t> keys, std::span<int64_t> numbers) {
    const size_t room = std::bit_ceil(2 * (keys_->size() + keys.size()) + 1);
    if (room > places_.size()) Grow(room);
    for (size_t i = 0; i < keys.size(); ++i) {
      if (i + kAhead < keys.size()) {
        __builtin_prefetch(&places_[Mix(keys[i + kAhead]) & (places_.size() - 1)]);
      }
      numbers[i] = Number(keys[i]);
    }
  }

 private:
  static constexpr size_t kLeastPlaces = 64;
  static constexpr size_t kAhead = 8;

  struct Place {
    uint64_t key = 0;
    int64_t number = 0;  // from 1; 0: free
  };

  void Grow(size_t places) {
    places_.assign(places, {});
    for (size_t k = 0; k < keys_->size(); ++k) {
      size_t at = Mix((*keys_)[k]) & (places - 1);
      while (places_[at].number != 0) at = (at + 1) & (places - 1);
      places_[at] = {(*keys_)[k], static_cast<int64_t>(k + 1)};
    }
  }

  std::vector<uint64_t>* const keys_;
  std::vector<Place> places_;  // a power of two
};

}  // namespace savior
