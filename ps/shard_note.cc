#include "ps/shard_note.h"

#include <absl/strings/str_cat.h>

#include <nlohmann/json.hpp>
#include <string_view>

namespace savior {
namespace {

constexpr uint64_t kVersion = 1;

// The number under `key`, if there is one and it is at most `max`.
bool ReadNumber(const nlohmann::json& json, const char* key, uint64_t max, uint64_t* value) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number_unsigned()) return false;
  *value = found->get<uint64_t>();
  return *value <= max;
}

bool ReadTable(const nlohmann::json& json, ShardNote::TableNote* table) {
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string()) return false;
  uint64_t dim = 0;
  uint64_t kind = 0;
  uint64_t optimizer = 0;
  uint64_t dtype = 0;
  if (!ReadNumber(json, "dim", UINT32_MAX, &dim) ||
      !ReadNumber(json, "kind", static_cast<uint64_t>(TableKind::kFrozen), &kind) ||
      !ReadNumber(json, "optimizer", static_cast<uint64_t>(OptimizerKind::kFtrl), &optimizer) ||
      !ReadNumber(json, "dtype", static_cast<uint64_t>(StoreDtype::kBfloat16), &dtype) ||
      !ReadNumber(json, "rows", UINT64_MAX, &table->rows)) {
    return false;
  }
  table->name = json["name"].get<std::string>();
  table->dim = static_cast<uint32_t>(dim);
  table->kind = static_cast<TableKind>(kind);
  table->optimizer = static_cast<OptimizerKind>(optimizer);
  table->dtype = static_cast<StoreDtype>(dtype);
  return true;
}

}  // namespace

ShardNote ShardNote::Of(uint32_t shard, uint32_t shards, uint64_t seed,
                        std::span<const TableSpec> tables, std::span<const uint64_t> rows) {
  ShardNote note{.shard = shard, .shards = shards, .seed = seed, .tables = {}};
  for (size_t t = 0; t < tables.size(); ++t) {
    note.tables.push_back({.name = tables[t].name,
                           .dim = tables[t].dim,
                           .kind = tables[t].kind,
                           .optimizer = tables[t].optimizer.kind,
                           .dtype = tables[t].dtype,
                           .rows = rows[t]});
  }
  return note;
}

std::string ShardNote::Encode() const {
  nlohmann::json list = nlohmann::json::array();
  for (const TableNote& table : tables) {
    list.push_back({{"name", table.name},
                    {"dim", table.dim},
                    {"kind", static_cast<uint32_t>(table.kind)},
                    {"optimizer", static_cast<uint32_t>(table.optimizer)},
                    {"dtype", static_cast<uint32_t>(table.dtype)},
                    {"rows", table.rows}});
  }
  return nlohmann::json{
      {"version", kVersion}, {"shard", shard}, {"shards", shards}, {"seed", seed}, {"tables", list}}
      .dump();
}

absl::StatusOr<ShardNote> ShardNote::Decode(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  uint64_t version = 0;
  uint64_t shard = 0;
  uint64_t shards = 0;
  ShardNote note;
  if (!json.is_object() || !ReadNumber(json, "version", kVersion, &version) ||
      version != kVersion || !ReadNumber(json, "shard", UINT32_MAX, &shard) ||
      !ReadNumber(json, "shards", UINT32_MAX, &shards) || shard >= shards ||
      !ReadNumber(json, "seed", UINT64_MAX, &note.seed) || !json.contains("tables") ||
      !json["tables"].is_array()) {
    return absl::DataLossError("the shard's note is malformed");
  }
  note.shard = static_cast<uint32_t>(shard);
  note.shards = static_cast<uint32_t>(shards);
  for (const nlohmann::json& table : json["tables"]) {
    if (!ReadTable(table, &note.tables.emplace_back())) {
      return absl::DataLossError("the shard's note of a table is malformed");
    }
  }
  return note;
}

absl::Status ShardNote::Fits(std::span<const TableSpec> specs, uint64_t wanted_seed) const {
  const auto differ = [](const std::string& what) {
    return absl::FailedPreconditionError("written under another configuration: " + what);
  };
  if (seed != wanted_seed) return differ(absl::StrCat("seed ", seed, ", now ", wanted_seed));
  if (tables.size() > specs.size()) {
    return differ(absl::StrCat("has table ", tables[specs.size()].name, ", which is now missing"));
  }
  const std::vector<uint64_t> no_rows(specs.size(), 0);
  const ShardNote wanted = Of(0, 1, seed, specs, no_rows);
  for (size_t t = 0; t < tables.size(); ++t) {
    TableNote noted = tables[t];
    noted.rows = 0;
    if (noted.name != wanted.tables[t].name) {
      return differ(absl::StrCat("table ", t, " is ", noted.name, ", now ", wanted.tables[t].name));
    }
    if (noted != wanted.tables[t]) {
      return differ(absl::StrCat("table ", noted.name, ": another dim (", noted.dim, ", now ",
                                 wanted.tables[t].dim, "), kind, optimizer or dtype"));
    }
  }
  return absl::OkStatus();
}

}  // namespace savior
