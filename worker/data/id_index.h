// Raw ids (any int64) <-> dense numbers.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace savior {

// Numbers of a fixed set of ids, in their ascending order. Thread-safe: immutable. 8 bytes per id,
// and at most 16 for looking up when ids are dense, about 40 when they are not.
class IdIndex {
 public:
  IdIndex() = default;
  // `sorted` ascends strictly.
  explicit IdIndex(std::vector<int64_t> sorted) : ids_(std::move(sorted)) {
    if (ids_.empty()) return;
    const auto range = static_cast<uint64_t>(ids_.back()) - static_cast<uint64_t>(ids_.front());
    if (range < 4 * uint64_t{ids_.size()}) {
      dense_.assign(range + 1, -1);
      for (size_t i = 0; i < ids_.size(); ++i) dense_[Slot(ids_[i])] = static_cast<int32_t>(i);
    } else {
      sparse_.reserve(ids_.size());
      for (size_t i = 0; i < ids_.size(); ++i) sparse_.emplace(ids_[i], static_cast<int32_t>(i));
    }
  }

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  const std::vector<int64_t>& ids() const { return ids_; }

  // -1: not in the set.
  int32_t Find(int64_t id) const {
    if (ids_.empty()) return -1;
    if (!dense_.empty()) {
      const uint64_t slot = Slot(id);
      return slot < dense_.size() ? dense_[slot] : -1;
    }
    const auto found = sparse_.find(id);
    return found == sparse_.end() ? -1 : found->second;
  }

 private:
  // Ids below the first wrap to huge slots.
  uint64_t Slot(int64_t id) const {
    return static_cast<uint64_t>(id) - static_cast<uint64_t>(ids_.front());
  }

  std::vector<int64_t> ids_;
  std::vector<int32_t> dense_;                    // id - first id -> number; or
  absl::flat_hash_map<int64_t, int32_t> sparse_;  // id -> number
};

// Collects ids as they appear. Single-threaded.
class IdCollector {
 public:
  // The place of `id` in the order of appearance.
  int32_t Place(int64_t id) {
    if (!ids_.empty() && id == last_id_) return last_place_;
    const auto [entry, fresh] = places_.try_emplace(id, static_cast<int32_t>(ids_.size()));
    if (fresh) ids_.push_back(id);
    last_id_ = id;
    last_place_ = entry->second;
    return last_place_;
  }

  const std::vector<int64_t>& ids() const { return ids_; }  // [place]

  // Ids ascending, and each place's number in that order.
  std::pair<std::vector<int64_t>, std::vector<int32_t>> Sorted() const {
    std::vector<int64_t> sorted = ids_;
    std::sort(sorted.begin(), sorted.end());
    std::vector<int32_t> numbers(ids_.size());
    for (size_t i = 0; i < sorted.size(); ++i) {
      numbers[static_cast<size_t>(places_.at(sorted[i]))] = static_cast<int32_t>(i);
    }
    return {std::move(sorted), std::move(numbers)};
  }

 private:
  absl::flat_hash_map<int64_t, int32_t> places_;
  std::vector<int64_t> ids_;
  int64_t last_id_ = 0;
  int32_t last_place_ = 0;
};

}  // namespace savior
