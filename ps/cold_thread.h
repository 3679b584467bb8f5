// A shard's second thread: reads and writes of the cold store, and first touches of memory, that
// nobody waits for.
//
// Rows of hints are read here, and dirty rows written here before they must leave RAM, so that a
// request rarely has to wait for RocksDB. A job carries all that it needs and its result; what a
// result means, the table decides (ps/table.h).
#pragma once

#include <absl/functional/any_invocable.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "common/status.h"
#include "ps/arena.h"
#include "ps/checkpoint_place.h"
#include "ps/cold_store.h"
#include "ps/table_rules.h"

namespace savior {

struct ColdRead {
  uint32_t table = 0;
  int64_t step = 0;                  // of the hint
  size_t stored_bytes = 0;           // of a row
  std::vector<uint64_t> keys = {};   // [n] strictly ascending
  std::vector<uint32_t> found = {};  // indices into keys, ascending
  std::string values = {};           // [found, stored_bytes]
  absl::Status status = {};

  void Run(ColdStore& store);
};

struct ColdWrite {
  enum class Of {
    kAhead,  // rows about to leave RAM
    kHeld,   // what was held back (ps/held_writes.h)
  };
  uint32_t table = 0;
  Of of = Of::kAhead;
  std::vector<uint64_t> keys = {};  // of the batch
  ColdStore::Batch batch = {};
  absl::Status status = {};

  void Run(ColdStore& store);
};

// Rows of a cut (Table::NextSlice).
struct ColdSlice {
  uint32_t table = 0;
  size_t stored_bytes = 0;            // of a row
  std::vector<uint64_t> marked = {};  // keys of rows that are marked as being written
  std::vector<uint64_t> keys = {};    // [n] of all, in no order, no key twice
  std::string values = {};            // [n, stored_bytes]
  absl::Status status = {};

  // RAM of its rows, until Run has ended.
  size_t bytes() const { return keys.size() * (sizeof(keys[0]) + stored_bytes); }
  void Run(ColdStore& store);
};

// Memory that a table will need soon: ps/arena.h says why.
struct PageTouch {
  std::vector<std::span<std::byte>> pages;

  void Run(ColdStore& /*store*/) const {
    for (const std::span<std::byte> page : pages) Arena::Touch(page);
  }
};

// Notes about a cut, then a checkpoint: everything that was written before.
struct ColdCheckpoint {
  std::vector<TableRules::Saved> rules = {};  // [tables]
  std::string note = {};                      // ShardNote's
  CheckpointPlace place = {};
  std::filesystem::path live = {};  // folder of the database
  DigestCache* digests = nullptr;
  absl::Status status = {};

  void Run(ColdStore& store);
};

using ColdJob = std::variant<ColdRead, ColdWrite, ColdSlice, PageTouch, ColdCheckpoint>;

// All methods are for one owner's thread.
class ColdThread {
 public:
  // `store` outlives the object. `wake` is called by the other thread after each job.
  ColdThread(ColdStore* store, absl::AnyInvocable<void()> wake);
  // Waits for the job under way; the others are not done.
  ~ColdThread();
  ColdThread(const ColdThread&) = delete;
  ColdThread& operator=(const ColdThread&) = delete;

  // Jobs are done in this order.
  void Post(ColdJob job);
  // Jobs posted and not taken back yet.
  size_t outstanding() const { return outstanding_; }
  // The next job that is done, in order; nothing if none is.
  std::optional<ColdJob> TakeDone();
  // The same, but waits for it; nothing if none is outstanding.
  std::optional<ColdJob> WaitDone();

 private:
  void Run();
  std::optional<ColdJob> Take();  // under mutex_

  ColdStore* const store_;
  absl::AnyInvocable<void()> wake_;
  size_t outstanding_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<ColdJob> jobs_;
  std::deque<ColdJob> done_;
  bool stopping_ = false;

  std::thread thread_;  // last: it sees all of the above made
};

}  // namespace savior
