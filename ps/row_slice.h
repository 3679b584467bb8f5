// Some rows of one shard's table, copied: what a walk over several shards in the order of the keys
// holds of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/status.h"
#include "ps/shard.h"

namespace savior {

// Single-threaded, but for Fill, which may run on the shard's thread while nobody else looks.
class RowSlice {
 public:
  // The shard's rows from key `from` on, some thousand of them; none if it has no more.
  [[nodiscard]] absl::Status Fill(Shard* shard, uint32_t table, uint64_t from);

  bool empty() const { return at_ == heads_.size(); }
  // Where to go on behind it; nothing: it was the last.
  std::optional<uint64_t> next() const { return next_; }
  // The first row that is left; not empty.
  uint64_t key() const { return heads_[at_].key; }
  StoredRow row() const;
  void Pop() { ++at_; }

 private:
  struct Head {
    uint64_t key;
    uint32_t updates;
    int64_t last_step;
  };

  std::optional<uint64_t> next_;
  std::vector<Head> heads_;
  std::vector<float> values_;  // [rows, dim + state]
  size_t dim_ = 0, state_ = 0;
  size_t at_ = 0;
};

}  // namespace savior
