// One table in one shard: the hot tier over the cold store.
//
// Where a row is changes no value: a row in RAM and its stored form are the same bits (weights of
// 16-bit tables are rounded whenever they change). The law: a row exists iff it is in the hot tier,
// held back (below) or in the cold store; the first of these that has it has the newest value, and
// a hot row that differs from what the others have is dirty or being written. The number of rows in
// any of them is exact, so if all are hot, a miss in RAM is known to be missing without a look at
// the disk.
//
// A row may be forgotten (ps/table_rules.h): it reads as missing wherever it lies, until Sweep
// deletes it or a push starts it anew in its place. So when it is deleted changes no value either.
//
// Ahead of need, by jobs that a second thread runs (ps/cold_thread.h):
//  - Hint gives a job that reads hinted rows. They are inserted when it is done, unless the row has
//    been in RAM meanwhile (then what was read may be stale). Hinted rows are held: they are no
//    victims until a later step's push, or until their hint is cancelled; at most half of the tier.
//  - CleanAhead gives a job that writes dirty rows that are about to become victims. While it is
//    under way they are no victims, so a newer version is never overtaken by an older one.
//
// A cut, for a checkpoint that does not stop the table: BeginCut names the moment, and takes no
// time. From then until EndCut the cold store gets rows as they were at the cut, and no newer ones:
//  - Collect goes through the hot tier in the order of hashes. A dirty row that has not changed
//  since
//    the cut is copied, and clean once that copy is written by one of NextSlice's jobs; meanwhile
//    it is no victim. A row about to change that Collect has not come to is copied as it is
//    (SaveBeforeChange). So all that a row has to remember is one bit: whether it came or changed
//    since the cut (HotTier::Changed).
//  - A dirty row that leaves RAM is written at once if its value is still the cut's, else it is
//    held back (ps/held_writes.h), to be found there, and written after EndCut by NextHeld's jobs.
//  - Nothing is written ahead of need or swept meanwhile, nor while something is held back.
// With everything written that NextSlice gave, the cold store has the cut, and nothing else.
#pragma once

#include <absl/container/flat_hash_set.h>
#include <absl/functional/function_ref.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/initial_row.h"
#include "common/partition.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/cold_store.h"
#include "ps/cold_thread.h"
#include "ps/held_writes.h"
#include "ps/hot_tier.h"
#include "ps/ram_budget.h"
#include "ps/row.h"
#include "ps/table_rules.h"

namespace savior {

// A row as VisitRows shows it; valid during the call.
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
  // `cold` outlives the table and holds `rows` rows of it, as table `number`, forgotten ones
  // included. Later limits are at most `max_bytes`.
  Table(const TableSpec& spec, uint32_t number, uint64_t seed, uint64_t rows, ColdStore* cold,
        uint64_t limit_bytes, uint64_t max_bytes, const RulesOptions& rules = {});

  // Takes over the rules' state from the cold store, where a checkpoint left it. Reads all rows if
  // the rules have changed. Before any other call.
  [[nodiscard]] absl::Status LoadRules();

  // As EmbeddingStore's, for the selected keys; the row of keys[i] is rows[positions[i] * dim ..].
  // updates: or null.
  [[nodiscard]] absl::Status Pull(const RowSelection& selection, float* rows, uint32_t* updates);
  [[nodiscard]] absl::Status Push(int64_t step, const RowSelection& selection, const float* grads);
  [[nodiscard]] absl::Status Put(const RowSelection& selection, const float* rows);
  // Likewise; the row of keys[i] is rows[positions[i] * RowFloats ..].
  [[nodiscard]] absl::Status ReadRows(const RowSelection& selection, float* rows,
                                      uint32_t* updates);
  [[nodiscard]] absl::Status WriteRows(int64_t step, const RowSelection& selection,
                                       const float* rows, const uint32_t* updates);

  // A push of `step` begins, to whatever tables. Returns the step that its rows are of
  // (TableRules).
  int64_t Begin(int64_t step);
  // Before a Push, Put or WriteRows: a full disk may have left the table beyond its limit.
  // kResourceExhausted if it still is, and then the caller must not add rows; these themselves
  // never fail for want of disk space.
  [[nodiscard]] absl::Status PrepareToWrite();

  // Holds the rows that are hot; the job, if any, reads the others. Keys may repeat.
  std::optional<ColdRead> Hint(int64_t step, std::span<const uint64_t> keys);
  [[nodiscard]] absl::Status FinishRead(const ColdRead& read);
  // Forgets hints of steps >= `from_step`.
  void CancelHints(int64_t from_step);

  // A job that is worth doing now, if there is one; one at a time.
  [[nodiscard]] absl::StatusOr<std::optional<ColdWrite>> CleanAhead();
  // Of a job of CleanAhead or NextHeld. OK if it failed for a full disk: its rows are dirty again,
  // or wait again.
  [[nodiscard]] absl::Status FinishWrite(const ColdWrite& write);

  // Memory that the table will need soon, if it is worth a job.
  std::optional<PageTouch> TouchAhead();
  // Some microseconds of work on memory that grows or shrinks. False: there was none.
  bool Maintain() { return hot_.Maintain(kMaintainBuckets); }
  // Deletes some of the rows that are forgotten, if they are worth the search. False: not so.
  [[nodiscard]] absl::StatusOr<bool> Sweep();

  // The rows as they are now are the cut's. There is no cut yet, and nothing is held back.
  void BeginCut();
  // Goes on collecting rows of the cut for about a tenth of a millisecond. False: that is not
  // possible at present, or all are collected.
  bool Collect();
  // What has been collected, if it is worth a job, or the last. Several may be under way.
  std::optional<ColdSlice> NextSlice();
  // Whether NextSlice has given all rows of the cut.
  bool CutIsPosted() const { return cut_->walked && cut_->slice.keys.empty(); }
  // Of what is collected.
  size_t slice_bytes() const { return cut_.has_value() ? cut_->slice.bytes() : 0; }
  // Of a job of NextSlice. If it failed its rows are dirty again.
  void FinishSlice(const ColdSlice& slice);
  // The cut is in a checkpoint, or given up; no job of it is under way.
  void EndCut();
  // The next job that writes what was held back; one at a time.
  [[nodiscard]] absl::StatusOr<std::optional<ColdWrite>> NextHeld();
  // RAM of what is held back; 0: nothing is.
  size_t held_bytes() const { return held_back_.bytes(); }
  // The rules' state as it is now.
  TableRules::Saved SaveRules() const { return rules_.Save(); }

  // Writes all dirty rows to the cold store; they stay, clean. No job is under way, there is no
  // cut, and nothing is held back.
  [[nodiscard]] absl::Status WriteBack();
  // Visits the rows of `range` that are not forgotten, keys ascending. Returns the key at which to
  // go on if it ended because it had looked at range.rows of them, nothing at the range's end.
  // After WriteBack, and before anything else changes: then by any number of threads at once.
  [[nodiscard]] absl::StatusOr<std::optional<uint64_t>> VisitRows(const RowRange& range,
                                                                  RowVisitor visit) const;

  // Evicts down to the limit.
  [[nodiscard]] absl::Status SetLimit(uint64_t limit_bytes);
  uint64_t limit_bytes() const { return limit_bytes_; }
  // What the table would like to have of the shard's RAM. Use is halved at each call: it fades.
  TableDemand Demand();

  const TableSpec& spec() const { return spec_; }
  // Rows that are not forgotten.
  uint64_t rows() const { return rules_.forget() ? rules_.live() : rows_; }
  // Rows in either tier, forgotten ones included.
  uint64_t stored_rows() const { return rows_; }
  TableStats Stats() const;

 private:
  // Keys that a request works on at a time. Bounds scratch memory and what is evicted in one go.
  static constexpr size_t kSlice = 256;
  static constexpr uint64_t kMaintainBuckets = 64;
  static constexpr uint64_t kSweepRows = 256;  // of each tier

  struct Miss {
    uint64_t key;
    uint32_t index;       // in the slice
    bool found;           // in the cold store and not forgotten; then its row is staged
    bool stored = false;  // in the cold store
    bool insert = false;  // into RAM, in an update
  };
  // A key of a slice that has no row: it is missing, or its row in RAM is forgotten.
  struct Rowless {
    uint32_t index;
    uint32_t miss;              // in misses_, or kNone
    std::optional<RowRef> row;  // the forgotten one
  };
  static constexpr uint32_t kNone = 0xffffffff;
  struct Cut {
    uint64_t next = 0;  // the first hash that Collect has not passed, unless `walked`
    bool walked = false;
    ColdSlice slice = {};  // collected, and copies of rows that changed since
  };
  // Rows that a hint named.
  struct Held {
    int64_t step;
    std::vector<uint64_t> keys;
  };

  // The next slice's size when `left` keys are left.
  size_t SliceSize(size_t left) const;
  // Calls hit(i, row) for the keys that are hot, and puts the others into misses_.
  template <typename Hit>
  void FindHits(std::span<const uint64_t> keys, HotTier::Access access, Hit hit);
  // Looks misses_ up in the cold store: stored ones are staged, in order of misses_.
  [[nodiscard]] absl::Status Fetch();
  RowRef Staged(size_t miss);
  // Moves a staged row into RAM, clean.
  HotTier::Place InsertStaged(size_t miss);
  [[nodiscard]] absl::Status CacheFound();
  // Calls found(i, row) for the keys that have a row, and missing(i) for the others.
  template <typename Found, typename Missing>
  [[nodiscard]] absl::Status ReadSlices(std::span<const uint64_t> keys, HotTier::Access access,
                                        Found found, Missing missing);
  // A slice of a push, put or write: updates the rows that there are, and those that `admit`, a
  // bool(uint64_t key), lets begin; it is asked in the keys' order, so that what it says does not
  // depend on tiers. update: void(size_t index, const RowRef&, bool fresh).
  template <typename Admit, typename Update>
  [[nodiscard]] absl::Status UpdateSlice(std::span<const uint64_t> keys, Admit admit,
                                         Update update);
  // The row as it is before its first update.
  void Start(uint64_t key, const RowRef& row) const;
  [[nodiscard]] absl::Status PushFinite(int64_t step, const RowSelection& selection,
                                        const float* grads);

  // Evicts until `rows` more fit, or until what is left is held or being written.
  [[nodiscard]] absl::Status MakeRoom(size_t rows);
  [[nodiscard]] absl::Status Evict(std::span<const HotTier::Victim> victims);
  [[nodiscard]] absl::Status Encode(const HotTier::Place& place, ColdStore::Batch* batch);
  // Whether the hot row's value is not the cut's any more, or Collect has passed it.
  bool AfterCut(const HotTier::Place& place) const;
  // During a cut, before the rows of `keys` may change.
  void SaveBeforeChange(std::span<const uint64_t> keys);
  // Adds a copy of the row to the next slice.
  void Copy(const HotTier::Place& place);
  ColdSlice NewSlice() const;
  // Rows that are worth a job.
  size_t SliceRows() const;
  // What Encode wrote of `key`; kDataLoss names it.
  [[nodiscard]] absl::Status Decode(uint64_t key, std::string_view stored, const RowRef& row) const;
  // Rows of hints of steps in [from, until) are no longer held for these.
  void Release(int64_t from, int64_t until);
  void Hold(Held* held, uint64_t key, const HotTier::Place& place);

  const TableSpec spec_;
  const uint32_t number_;
  const RowLayout layout_;
  const InitialRow initial_;
  ColdStore* const cold_;

  TableRules rules_;
  HotTier hot_;
  uint64_t limit_bytes_;
  uint64_t rows_;           // in either tier, forgotten ones included
  uint64_t sweep_key_ = 0;  // where Sweep goes on in the cold store, and in RAM
  uint64_t sweep_hash_ = 0;
  uint64_t use_ = 0;
  TableStats stats_;  // the counters only

  std::deque<Held> held_;
  size_t held_rows_ = 0;                   // in held_
  uint32_t reads_ = 0;                     // jobs under way
  absl::flat_hash_set<uint64_t> reading_;  // their keys
  absl::flat_hash_set<uint64_t> erased_;   // keys that left RAM while reads_ > 0
  bool writing_ = false;                   // a job of CleanAhead is under way

  std::optional<Cut> cut_;
  HeldWrites held_back_;
  bool writing_held_ = false;  // a job of NextHeld is under way

  // Scratch of one slice.
  std::vector<Miss> misses_;
  std::vector<Rowless> rowless_;
  std::vector<uint64_t> miss_keys_;  // of misses_ that the cold store is asked for
  std::vector<size_t> asked_;        // their indices there
  std::vector<float> staging_;       // [kSlice][head, body]
  std::string stored_;
};

}  // namespace savior
