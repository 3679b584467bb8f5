// Writes of one table that must not reach the cold store yet: while a checkpoint is being taken it
// has to find there what was at its cut, and rows go on leaving RAM.
//
// The newest value of a key is held, once; it can be found, so a row reads the same wherever it is.
// Later a second thread writes them, in batches: Take, then Written or Failed. Until a key's value
// is written nobody else may write that key to the cold store.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace savior {

// Single-threaded.
class HeldWrites {
 public:
  bool empty() const { return entries_.empty(); }
  // RAM, about.
  size_t bytes() const { return bytes_; }

  // Holds `stored` as the newest value of `key`.
  void Put(uint64_t key, std::string_view stored);
  bool Contains(uint64_t key) const { return entries_.contains(key); }
  // The newest value, valid until the next call that changes something; null: none is held.
  const std::string* Find(uint64_t key) const;

  // Up to `count` keys whose newest value is not being written, ascending; it is from now on.
  std::vector<uint64_t> Take(size_t count);
  // What Take gave is written: values that no newer one has replaced are let go.
  void Written(std::span<const uint64_t> keys);
  // It could not be: it waits again.
  void Failed(std::span<const uint64_t> keys);

 private:
  struct Entry {
    std::string stored;
    bool taken = false;  // else the key is in waiting_
  };

  absl::flat_hash_map<uint64_t, Entry> entries_;
  std::deque<uint64_t> waiting_;
  size_t bytes_ = 0;
};

}  // namespace savior
