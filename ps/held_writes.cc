#include "ps/held_writes.h"

#include <algorithm>

namespace savior {
namespace {

// Of an entry beside its value: its key, its place in the map and in the queue, its string.
constexpr size_t kOverhead = 96;

}  // namespace

void HeldWrites::Put(uint64_t key, std::string_view stored) {
  const auto [at, is_new] = entries_.try_emplace(key);
  Entry& entry = at->second;
  if (is_new) {
    bytes_ += kOverhead;
  } else {
    bytes_ -= entry.stored.size();
  }
  if (is_new || entry.taken) waiting_.push_back(key);
  entry.taken = false;
  entry.stored.assign(stored);
  bytes_ += stored.size();
}

const std::string* HeldWrites::Find(uint64_t key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second.stored;
}

std::vector<uint64_t> HeldWrites::Take(size_t count) {
  std::vector<uint64_t> keys;
  for (; !waiting_.empty() && keys.size() < count; waiting_.pop_front()) {
    keys.push_back(waiting_.front());
    entries_.at(keys.back()).taken = true;
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

void HeldWrites::Written(std::span<const uint64_t> keys) {
  for (const uint64_t key : keys) {
    const auto found = entries_.find(key);
    if (!found->second.taken) continue;  // replaced meanwhile
    bytes_ -= kOverhead + found->second.stored.size();
    entries_.erase(found);
  }
}

void HeldWrites::Failed(std::span<const uint64_t> keys) {
  for (const uint64_t key : keys) {
    Entry& entry = entries_.at(key);
    if (!entry.taken) continue;
    entry.taken = false;
    waiting_.push_back(key);
  }
}

}  // namespace savior
