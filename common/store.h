// EmbeddingStore: the one interface through which a worker sees the parameter server.
//
// Implementations: LocalStore (ps/local_store.h; shards as threads of this process, no sockets)
// and, over many nodes, the remote store. All must pass one conformance suite
// (tests/ps/store_conformance.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace savior {

enum class TableKind : uint8_t {
  kId,      // learned; a missing row reads as its initial value, a function of (seed, table, key)
  kAlign,   // learned; a missing row reads as zeros (SaviorRec's zero-initialised code tables)
  kFrozen,  // content: written by Put, never by Push; a missing row reads as zeros
};

enum class OptimizerKind : uint8_t { kNone, kSgd, kAdagrad, kRowwiseAdagrad, kAdam, kFtrl };

// Which fields matter depends on `kind`; the formulas are in ps/optimizer.h.
struct OptimizerSpec {
  OptimizerKind kind = OptimizerKind::kAdagrad;
  float lr = 0.1f;                   // > 0
  float eps = 1e-8f;                 // Adagrad, rowwise Adagrad, Adam
  float initial_accumulator = 0.0f;  // Adagrad, rowwise Adagrad, FTRL (there > 0)
  float beta1 = 0.9f;                // Adam
  float beta2 = 0.999f;              // Adam
  float l1 = 0.0f;                   // FTRL
  float l2 = 0.0f;                   // FTRL
  // SGD, Adagrad, rowwise Adagrad, Adam: added to the gradient, times the weight.
  float weight_decay = 0.0f;
  bool operator==(const OptimizerSpec&) const = default;
};

// Of the weights in the cold store; state is always float32. A row in RAM has the same values:
// where a row is changes nothing. So weights of a 16-bit table are rounded whenever they change: a
// learned one's stochastically (seeded by table, key and number of updates: small steps are not
// lost on average), a frozen one's to the nearest.
enum class StoreDtype : uint8_t { kFloat32, kFloat16, kBfloat16 };

// Which new keys of a learned table get a row. A key without one reads as its initial value, and
// its gradients are dropped.
enum class AdmissionKind : uint8_t {
  kAll,
  kCount,        // with the `count`-th push, nearly always (ps/key_counts.h: how nearly)
  kProbability,  // each push with `probability`, drawn from (seed, table, key, step)
};

struct AdmissionSpec {
  AdmissionKind kind = AdmissionKind::kAll;
  uint32_t count = 1;        // kCount: 2 .. 15
  float probability = 1.0f;  // kProbability: (0, 1]
  bool operator==(const AdmissionSpec&) const = default;
};

// Which rows of a learned table are forgotten: they read as missing from then on. The three rules
// add up; each is off at its default. Rows go continuously, as steps pass (ps/eviction.h).
struct EvictionSpec {
  // Rows without a push for more than this many steps. Steps, not hours: a night's outage or a jump
  // of the clock expires nothing. 0: off.
  uint32_t idle_steps = 0;
  // Rows whose root mean square weight is below `min_score`, without a push for more than
  // `score_idle_steps` steps. 0: off.
  float min_score = 0.0f;
  uint32_t score_idle_steps = 0;
  // Beyond this many rows of the whole table, those idle longest go. 0: no bound.
  uint64_t capacity_rows = 0;
  // The first two rules leave the whole table at least this many rows.
  uint64_t floor_rows = 0;
  // Never more than this share of the table's rows in a minute: (0, 1].
  float max_share_per_minute = 0.01f;
  bool operator==(const EvictionSpec&) const = default;

  bool enabled() const { return idle_steps > 0 || min_score > 0 || capacity_rows > 0; }
};

// What becomes of a push with a gradient that is not finite.
enum class BadGradients : uint8_t {
  kReject,  // kInvalidArgument names table and key; nothing of the push is applied
  kSkip,    // that row stays as it is, and is counted
};

struct TableSpec {
  std::string name;  // [a-z0-9_]+, unique
  uint32_t dim = 0;  // floats per row as pulled; a multiple of 4 in [4, 512]
  TableKind kind = TableKind::kId;
  OptimizerSpec optimizer;   // kNone for frozen tables
  float init_scale = 0.01f;  // kId: initial weights are N(0, init_scale^2)
  StoreDtype dtype = StoreDtype::kFloat32;
  AdmissionSpec admission = {};  // learned tables only
  EvictionSpec eviction = {};    // learned tables only
  BadGradients bad_gradients = BadGradients::kReject;
  bool operator==(const TableSpec&) const = default;
};

// Floats of optimizer state per row of `dim` weights; what they are: ps/optimizer.h.
constexpr uint32_t StateFloats(OptimizerKind kind, uint32_t dim) {
  switch (kind) {
    case OptimizerKind::kNone:
    case OptimizerKind::kSgd:
      return 0;
    case OptimizerKind::kRowwiseAdagrad:
      return 1;
    case OptimizerKind::kAdagrad:
      return dim;
    case OptimizerKind::kAdam:
    case OptimizerKind::kFtrl:
      return 2 * dim;
  }
  return 0;
}

// Floats of a whole row: weights [dim], then optimizer state [StateFloats].
constexpr uint32_t RowFloats(const TableSpec& spec) {
  return spec.dim + StateFloats(spec.optimizer.kind, spec.dim);
}

// Rows of one table to read. The spans must outlive the call.
struct TablePull {
  uint32_t table = 0;                // index into the store's table list
  std::span<const uint64_t> keys;    // [n], unique
  std::span<float> rows;             // [n, dim], written
  std::span<uint32_t> updates = {};  // [n] or empty: how often each row was updated (0: missing)
};

// Gradients of one table, already summed per key over the worker's batch.
struct TablePush {
  uint32_t table = 0;
  std::span<const uint64_t> keys;  // [n], unique
  std::span<const float> grads;    // [n, dim]
};

// Rows of one frozen table to write.
struct TablePut {
  uint32_t table = 0;
  std::span<const uint64_t> keys;  // [n], unique
  std::span<const float> rows;     // [n, dim]
};

// Whole rows of one learned table to read: weights, optimizer state and number of updates. A
// missing row reads as it would begin: initial weights, initial state, 0 updates.
struct TableRead {
  uint32_t table = 0;
  std::span<const uint64_t> keys;  // [n], unique in the call
  std::span<float> rows;           // [n, RowFloats], written
  std::span<uint32_t> updates;     // [n], written
};

// Whole rows of one learned table to write, whatever was there.
struct TableWrite {
  uint32_t table = 0;
  std::span<const uint64_t> keys;     // [n], unique in the call
  std::span<const float> rows;        // [n, RowFloats]
  std::span<const uint32_t> updates;  // [n], each >= 1: a row that exists has been updated
};

struct TableKeys {
  uint32_t table = 0;
  std::span<const uint64_t> keys;
};

// The step of a pull that belongs to none: it is served at once.
inline constexpr int64_t kAnyStep = -1;

// A pull or push that was started and is not finished yet. Copyable; for one Finish.
struct Ticket {
  uint64_t number = 0;
};

// Figures of one table, summed over shards.
struct TableStats {
  std::string name;
  uint64_t rows = 0;  // in hot tier and cold store together
  uint64_t hot_rows = 0;
  uint64_t hot_bytes = 0;     // RAM held by the hot tier
  uint64_t pulled = 0;        // rows pulled, or read whole, since the start
  uint64_t hot_hits = 0;      // of those, found in the hot tier
  uint64_t missing = 0;       // of those, in neither tier
  uint64_t written_back = 0;  // dirty rows written to the cold store to make room in RAM
  uint64_t hinted = 0;        // rows brought up by hints
  uint64_t admitted = 0;      // new rows, by pushes
  uint64_t refused = 0;       // gradients dropped by admission
  uint64_t evicted = 0;       // rows forgotten by the eviction rules
  uint64_t skipped = 0;       // gradients dropped because they were not finite

  bool operator==(const TableStats&) const = default;
};

// What the shards' clocks have seen since the start (ps/step_clock.h), and what serving them cost;
// zeros where nobody keeps a clock, or serves.
struct StepStats {
  uint64_t steps = 0;          // done by all workers, at the shard that is behind most
  uint64_t pulls = 0;          // of training steps, summed over shards
  uint64_t pulls_held = 0;     // of those, that had to wait for a push
  uint64_t max_staleness = 0;  // most steps that a pull was without a push of
  // CPU time since their start of the servers' processes that are not also somebody else's.
  uint64_t server_cpu_us = 0;
  // Requests that came again after they had been applied, summed over shards: answered, no more.
  uint64_t repeated = 0;
  bool operator==(const StepStats&) const = default;
};

// Frames of this store's own connections, whole: keys, rows, gradients, headers, what was sent
// again; before encryption. Zeros within one process.
struct NetworkStats {
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
};

struct StoreStats {
  std::vector<TableStats> tables;
  StepStats steps = {};
  NetworkStats network = {};
};

// Thread-safe: several workers may call at once. Every call blocks up to `deadline`.
// Errors, all calls: kInvalidArgument (unknown table, wrong sizes; the message names the table),
// kUnavailable (a shard has stopped), kDeadlineExceeded, kDataLoss (a stored row does not decode;
// table and key named).
class EmbeddingStore {
 public:
  virtual ~EmbeddingStore() = default;

  virtual const std::vector<TableSpec>& tables() const = 0;

  // Reads rows. A learned row that does not exist is not created by a pull: it reads as its initial
  // value, and comes into being with its first push. So evaluation leaves no trace.
  [[nodiscard]] virtual absl::Status Pull(std::span<const TablePull> pulls, Deadline deadline) = 0;

  // Applies one optimizer step to each row. `step` is the training step that the gradients belong
  // to (>= 0); rows remember the last one. When the call returns OK every gradient is applied.
  [[nodiscard]] virtual absl::Status Push(int64_t step, std::span<const TablePush> pushes,
                                          Deadline deadline) = 0;

  // The same two, for training steps: several may be under way, and overlap with computation. A
  // pull of `step` is answered once all that the run's staleness asks for is applied
  // (ps/step_clock.h); one of kAnyStep at once. May wait where too much is under way. The spans of
  // a pull must live until Finish; those of a push are not needed after the return. Pulls and
  // pushes under way together may be served in any order that the steps allow.
  [[nodiscard]] virtual absl::StatusOr<Ticket> StartPull(int64_t step,
                                                         std::span<const TablePull> pulls,
                                                         Deadline deadline) = 0;
  [[nodiscard]] virtual absl::StatusOr<Ticket> StartPush(int64_t step,
                                                         std::span<const TablePush> pushes,
                                                         Deadline deadline) = 0;
  // Waits for the end, up to the deadline that it was started with. Every ticket must be finished
  // once, whatever else happens.
  [[nodiscard]] virtual absl::Status Finish(Ticket ticket) = 0;

  // Writes rows of frozen tables, replacing what was there.
  [[nodiscard]] virtual absl::Status Put(std::span<const TablePut> puts, Deadline deadline) = 0;

  // Reads whole rows, of training that goes on elsewhere or of a copy of it: what WriteRows writes
  // back changes nothing. Creates no rows, and waits for no step. Values are float32 all the way.
  // kInvalidArgument: a table is frozen, or a key comes twice in it.
  [[nodiscard]] virtual absl::Status ReadRows(std::span<const TableRead> reads,
                                              Deadline deadline) = 0;

  // Replaces or creates whole rows, of learned tables. They go on as if they had come to these
  // values by pushes, the last one of `step` (as Push's): eviction sees that, admission is not
  // asked. Weights are rounded to the table's type as those of a push are (StoreDtype); values that
  // the type has, such as those read from it, stay as they are. Applied once, as a push, and to a
  // full disk as a put. kInvalidArgument, and nothing is applied: a table is frozen, a key comes
  // twice, a value is not finite or an update count 0 (table and key named). After another error
  // some of the rows may be written: the same call may come again.
  [[nodiscard]] virtual absl::Status WriteRows(int64_t step, std::span<const TableWrite> writes,
                                               Deadline deadline) = 0;

  // Says that these rows will be pulled at `step`: a shard may bring them up from the cold store
  // before, and then keeps them in RAM until a push of a later step. Changes no value ever. Does
  // not wait; bounded: what would evict rows hinted for earlier steps, or waits behind too many
  // others, is dropped.
  [[nodiscard]] virtual absl::Status Hint(int64_t step, std::span<const TableKeys> keys) = 0;

  // Forgets hints of steps >= `from_step`, done or not (the worker goes on elsewhere). Does not
  // wait.
  [[nodiscard]] virtual absl::Status CancelHints(int64_t from_step) = 0;

  [[nodiscard]] virtual absl::StatusOr<StoreStats> Stats(Deadline deadline) = 0;
};

}  // namespace savior
