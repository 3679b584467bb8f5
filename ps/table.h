// One table in one shard: the hot tier over the cold store.
//
// Where a row is changes no value: a row in RAM and its stored form are the same bits (float16
// tables are rounded when they are put). The law: a row exists iff it is in the hot tier or in the
// cold store; if in both, the hot one is newer or equal, and dirty unless equal. rows() counts
// these exactly, so with rows() == hot rows a miss in RAM is known to be missing without a look at
// the disk.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/store.h"
#include "ps/cold_store.h"
#include "ps/hot_tier.h"
#include "ps/initial_row.h"
#include "ps/ram_budget.h"
#include "ps/row.h"

namespace savior {

// The part of a request's keys that one shard has, and where the rows are in the caller's arrays.
struct RowSelection {
  std::span<const uint64_t> keys;       // [n], unique
  std::span<const uint32_t> positions;  // [n]

  RowSelection Slice(size_t begin, size_t n) const {
    return {keys.subspan(begin, n), positions.subspan(begin, n)};
  }
};

// A row as ForEachRow shows it; valid during the call.
struct StoredRow {
  uint64_t key = 0;
  std::span<const float> weights;  // [dim]
  std::span<const float> state;    // as in ps/optimizer.h
  uint32_t updates = 0;
  int64_t last_step = 0;
};
using RowVisitor = absl::FunctionRef<absl::Status(const StoredRow&)>;

// Single-threaded. Errors name table and key. After an error of Push some of its rows may be
// updated and others not.
class Table {
 public:
  // `cold` outlives the table and holds `rows` rows of it, as table `number`.
  Table(const TableSpec& spec, uint32_t number, uint64_t seed, uint64_t rows, ColdStore* cold,
        uint64_t limit_bytes);

  // As EmbeddingStore's, for the selected keys; the row of keys[i] is rows[positions[i] * dim ..].
  // updates: or null.
  [[nodiscard]] absl::Status Pull(const RowSelection& selection, float* rows, uint32_t* updates);
  [[nodiscard]] absl::Status Push(int64_t step, const RowSelection& selection, const float* grads);
  [[nodiscard]] absl::Status Put(const RowSelection& selection, const float* rows);

  // Brings up what is in the cold store. Keys may repeat.
  [[nodiscard]] absl::Status BringUp(std::span<const uint64_t> keys);
  // Writes all dirty rows to the cold store; they stay, clean.
  [[nodiscard]] absl::Status WriteBack();
  // All rows, keys ascending. Writes back first.
  [[nodiscard]] absl::Status ForEachRow(RowVisitor visit);

  // Evicts down to the limit.
  [[nodiscard]] absl::Status SetLimit(uint64_t limit_bytes);
  // What the table would like to have of the shard's RAM. Use is halved at each call: it fades.
  TableDemand Demand();

  const TableSpec& spec() const { return spec_; }
  uint64_t rows() const { return rows_; }
  TableStats Stats() const;

 private:
  // Keys that a request works on at a time. Bounds scratch memory and what is evicted in one go.
  static constexpr size_t kSlice = 256;

  struct Miss {
    uint64_t key;
    uint32_t index;  // in the slice
    bool found;      // in the cold store; then its row is staged
  };
  struct alignas(16) Staging {
    std::byte bytes[16];
  };

  // The next slice's size when `left` keys are left.
  size_t SliceSize(size_t left) const;
  // slots_[i] = the slot of keys[i]; misses_ = those without one, by key.
  void FindAndSplit(std::span<const uint64_t> keys);
  // Looks misses_ up in the cold store: found ones are staged, in order of misses_.
  [[nodiscard]] absl::Status Fetch();
  RowRef Staged(size_t miss);
  // Moves a staged row into RAM. There is room.
  uint32_t InsertStaged(size_t miss);
  [[nodiscard]] absl::Status CacheFound();
  // Hits and misses of one slice, all of them in RAM in the end; a missing one as its initial row
  // with no updates.
  template <typename Update>  // void(size_t index, const RowRef&)
  [[nodiscard]] absl::Status UpdateSlice(std::span<const uint64_t> keys, Update update);

  // Evicts until `rows` more fit.
  [[nodiscard]] absl::Status MakeRoom(size_t rows);
  [[nodiscard]] absl::Status Evict(uint32_t rows);
  [[nodiscard]] absl::Status WriteRow(uint32_t slot, ColdStore::Batch* batch);

  const TableSpec spec_;
  const uint32_t number_;
  const RowLayout layout_;
  const InitialRow initial_;
  ColdStore* const cold_;

  HotTier hot_;
  uint64_t rows_;
  uint64_t use_ = 0;
  TableStats stats_;  // the counters only

  // Scratch of one slice.
  std::vector<uint32_t> slots_;
  std::vector<Miss> misses_;
  std::vector<uint64_t> miss_keys_;
  std::vector<Staging> staging_;  // [kSlice][layout_.bytes()]
  std::string stored_;
};

}  // namespace savior
