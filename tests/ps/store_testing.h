// Short forms for tests of stores.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/random.h"
#include "common/store.h"

namespace savior {

inline Deadline Soon() { return DeadlineIn(std::chrono::seconds(60)); }
inline Deadline Past() { return SteadyClock::now() - std::chrono::seconds(1); }

inline TableSpec IdTable(const std::string& name, uint32_t dim,
                         const OptimizerSpec& optimizer = {}) {
  return {.name = name, .dim = dim, .kind = TableKind::kId, .optimizer = optimizer};
}

inline TableSpec AlignSpec(const std::string& name, uint32_t dim,
                           const OptimizerSpec& optimizer = {}) {
  return {.name = name, .dim = dim, .kind = TableKind::kAlign, .optimizer = optimizer};
}

inline TableSpec FrozenTable(const std::string& name, uint32_t dim,
                             StoreDtype dtype = StoreDtype::kFloat32) {
  return {.name = name,
          .dim = dim,
          .kind = TableKind::kFrozen,
          .optimizer = {.kind = OptimizerKind::kNone},
          .dtype = dtype};
}

inline OptimizerSpec Optimizer(OptimizerKind kind, float lr = 0.5f) {
  return {
      .kind = kind, .lr = lr, .initial_accumulator = kind == OptimizerKind::kFtrl ? 0.1f : 0.0f};
}

// A table of each kind, optimizer and dtype.
inline std::vector<TableSpec> AllTables() {
  return {IdTable("sgd", 4, Optimizer(OptimizerKind::kSgd)),
          IdTable("adagrad", 8, Optimizer(OptimizerKind::kAdagrad)),
          IdTable("rowwise", 16, Optimizer(OptimizerKind::kRowwiseAdagrad)),
          IdTable("adam", 12, Optimizer(OptimizerKind::kAdam)),
          IdTable("ftrl", 4, Optimizer(OptimizerKind::kFtrl)),
          AlignSpec("align", 8, Optimizer(OptimizerKind::kAdagrad)),
          FrozenTable("content", 20),
          FrozenTable("content_half", 24, StoreDtype::kFloat16)};
}

inline std::vector<uint64_t> Keys(uint64_t begin, uint64_t end) {
  std::vector<uint64_t> keys(end - begin);
  std::iota(keys.begin(), keys.end(), begin);
  return keys;
}

// n floats in (-1, 1).
inline std::vector<float> RandomFloats(size_t n, Random* random) {
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(2 * random->Uniform() - 1);
  return values;
}

struct Pulled {
  std::vector<float> rows;
  std::vector<uint32_t> updates;
  bool operator==(const Pulled&) const = default;
};

inline Pulled PullRows(EmbeddingStore& store, uint32_t table, std::span<const uint64_t> keys) {
  Pulled pulled{.rows = std::vector<float>(keys.size() * store.tables()[table].dim, -77.0f),
                .updates = std::vector<uint32_t>(keys.size(), 77)};
  const TablePull pull{
      .table = table, .keys = keys, .rows = pulled.rows, .updates = pulled.updates};
  const absl::Status status = store.Pull({&pull, 1}, Soon());
  EXPECT_TRUE(status.ok()) << status;
  return pulled;
}

inline absl::Status PushRows(EmbeddingStore& store, int64_t step, uint32_t table,
                             std::span<const uint64_t> keys, std::span<const float> grads) {
  const TablePush push{.table = table, .keys = keys, .grads = grads};
  return store.Push(step, {&push, 1}, Soon());
}

inline absl::Status PutRows(EmbeddingStore& store, uint32_t table, std::span<const uint64_t> keys,
                            std::span<const float> rows) {
  const TablePut put{.table = table, .keys = keys, .rows = rows};
  return store.Put({&put, 1}, Soon());
}

// As Pulled, but rows are whole: [n, RowFloats].
inline Pulled ReadWhole(EmbeddingStore& store, uint32_t table, std::span<const uint64_t> keys) {
  Pulled whole{.rows = std::vector<float>(keys.size() * RowFloats(store.tables()[table]), -77.0f),
               .updates = std::vector<uint32_t>(keys.size(), 77)};
  const TableRead read{.table = table, .keys = keys, .rows = whole.rows, .updates = whole.updates};
  const absl::Status status = store.ReadRows({&read, 1}, Soon());
  EXPECT_TRUE(status.ok()) << status;
  return whole;
}

inline absl::Status WriteWhole(EmbeddingStore& store, int64_t step, uint32_t table,
                               std::span<const uint64_t> keys, const Pulled& whole) {
  const TableWrite write{
      .table = table, .keys = keys, .rows = whole.rows, .updates = whole.updates};
  return store.WriteRows(step, {&write, 1}, Soon());
}

inline absl::Status HintRows(EmbeddingStore& store, uint32_t table,
                             std::span<const uint64_t> keys) {
  const TableKeys hint{.table = table, .keys = keys};
  return store.Hint(0, {&hint, 1});
}

}  // namespace savior
