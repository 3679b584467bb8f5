// What a shard's database says about itself: whose rows these are. Part of every checkpoint.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/store.h"

namespace savior {

// JSON: {"version": 1, "shard": k, "shards": n, "seed": s, "tables": [{"name", "dim", "kind",
// "optimizer", "dtype", "rows"}]}.
struct ShardNote {
  static constexpr char kName[] = "shard";  // of the cold store's note

  struct TableNote {
    std::string name;
    uint32_t dim = 0;
    TableKind kind = TableKind::kId;
    OptimizerKind optimizer = OptimizerKind::kNone;
    StoreDtype dtype = StoreDtype::kFloat32;
    uint64_t rows = 0;
    bool operator==(const TableNote&) const = default;
  };

  uint32_t shard = 0;
  uint32_t shards = 1;
  uint64_t seed = 0;
  std::vector<TableNote> tables;
  bool operator==(const ShardNote&) const = default;

  // rows: [tables].
  static ShardNote Of(uint32_t shard, uint32_t shards, uint64_t seed,
                      std::span<const TableSpec> tables, std::span<const uint64_t> rows);
  std::string Encode() const;
  // kDataLoss if `text` is not such a note.
  [[nodiscard]] static absl::StatusOr<ShardNote> Decode(const std::string& text);

  // Whether rows under this note are rows of `tables` under `seed`: kFailedPrecondition names what
  // differs. The noted tables must be the first of `tables`, since a table's number routes its
  // keys; further ones start empty. Rates of optimizers may change.
  [[nodiscard]] absl::Status Fits(std::span<const TableSpec> tables, uint64_t seed) const;
};

}  // namespace savior
