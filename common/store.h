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

// Of the weights in the cold store; state is always float32.
enum class StoreDtype : uint8_t { kFloat32, kFloat16 };

struct TableSpec {
  std::string name;  // [a-z0-9_]+, unique
  uint32_t dim = 0;  // floats per row as pulled; a multiple of 4 in [4, 512]
  TableKind kind = TableKind::kId;
  OptimizerSpec optimizer;                  // kNone for frozen tables
  float init_scale = 0.01f;                 // kId: initial weights are N(0, init_scale^2)
  StoreDtype dtype = StoreDtype::kFloat32;  // kFloat16 only for frozen tables here
  bool operator==(const TableSpec&) const = default;
};

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

struct TableKeys {
  uint32_t table = 0;
  std::span<const uint64_t> keys;
};

// Figures of one table, summed over shards.
struct TableStats {
  std::string name;
  uint64_t rows = 0;  // in hot tier and cold store together
  uint64_t hot_rows = 0;
  uint64_t hot_bytes = 0;     // RAM held by the hot tier
  uint64_t pulled = 0;        // rows pulled since the start
  uint64_t hot_hits = 0;      // of those, found in the hot tier
  uint64_t missing = 0;       // of those, in neither tier
  uint64_t written_back = 0;  // dirty rows evicted to the cold store
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

  // Writes rows of frozen tables, replacing what was there.
  [[nodiscard]] virtual absl::Status Put(std::span<const TablePut> puts, Deadline deadline) = 0;

  // Says that these rows will be pulled at `step`: a shard may bring them up from the cold store
  // before. Changes no value ever. Does not wait.
  [[nodiscard]] virtual absl::Status Hint(int64_t step, std::span<const TableKeys> keys) = 0;

  [[nodiscard]] virtual absl::StatusOr<std::vector<TableStats>> Stats(Deadline deadline) = 0;
};

}  // namespace savior
