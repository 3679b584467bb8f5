// Which new keys of a learned table get a row (AdmissionSpec in common/store.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/store.h"
#include "ps/key_counts.h"

namespace savior {

// The admission of one table's new keys, in one shard. Single-threaded.
//
// What is admitted does not depend on which shard a key is in, nor on how many there are:
// kProbability is a function of (seed, table's name, key, step), and kCount counts each of the
// 4,096 buckets (common/routing.h) by itself, on nothing but that bucket's own pushes.
//
// kCount costs 1.5 bytes per key that has no row yet and 256 per bucket that has such keys; never
// more than 15 MiB per table, over all shards (ps/key_counts.h: the arithmetic, and how wrong the
// counts are). A key that is admitted is no longer counted: if its row is forgotten later, it
// starts anew.
class Admission {
 public:
  // spec: valid (ps/table_spec.h), as table `number`.
  Admission(const TableSpec& spec, uint32_t number, uint64_t seed);

  // Whether the key, which has no row, gets one with this push. Called once per push.
  bool Admit(uint64_t key, int64_t step);

  uint64_t admitted() const { return admitted_; }
  uint64_t refused() const { return refused_; }
  // RAM, this object included.
  size_t bytes() const { return bytes_; }

  // kCount's state; none for the other kinds.
  struct SavedBucket {
    uint32_t bucket = 0;
    std::string bytes;
  };
  // Buckets ascending, those with counts only. Not admitted() and refused().
  std::vector<SavedBucket> Save() const;
  // Puts a bucket's saved state in place of what is there. A state that was counted for another
  // `count`, or by a table that does not count any more, is passed over: keys start anew. kDataLoss
  // if it is none; then nothing is changed.
  [[nodiscard]] absl::Status Load(uint32_t bucket, std::string_view bytes);

 private:
  bool Decide(uint64_t key, int64_t step);
  bool Count(uint64_t key);

  const AdmissionSpec spec_;
  const uint32_t number_;
  const uint64_t stream_;
  std::vector<std::unique_ptr<KeyCounts>> buckets_;  // [kBuckets] for kCount, else []
  uint64_t admitted_ = 0;
  uint64_t refused_ = 0;
  size_t bytes_;
};

}  // namespace savior
