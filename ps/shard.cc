#include "ps/shard.h"

#include <absl/strings/str_cat.h>

#include <optional>
#include <string>
#include <utility>

#include "ps/ram_budget.h"
#include "ps/shard_note.h"

namespace savior {
namespace {

// Requests between two divisions of the RAM: often enough to follow a table that grows, seldom
// enough not to matter.
constexpr uint64_t kDivideEvery = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<Shard>> Shard::Open(const ShardOptions& options) {
  std::vector<std::string> names;
  for (const TableSpec& table : options.tables) names.push_back(table.name);
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<ColdStore> cold, ColdStore::Open(options.folder, names));
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<std::string> text, cold->GetNote(ShardNote::kName));
  std::vector<uint64_t> rows(options.tables.size(), 0);
  if (text.has_value()) {
    SAVIOR_ASSIGN_OR_RETURN(const ShardNote note, ShardNote::Decode(*text));
    SAVIOR_RETURN_IF_ERROR(note.Fits(options.tables, options.seed));
    for (size_t t = 0; t < note.tables.size(); ++t) rows[t] = note.tables[t].rows;
  }
  std::unique_ptr<Shard> shard(new Shard(options, std::move(cold)));
  for (uint32_t t = 0; t < options.tables.size(); ++t) {
    shard->tables_.push_back(
        std::make_unique<Table>(options.tables[t], t, options.seed, rows[t], shard->cold_.get(),
                                options.ram_budget_bytes / options.tables.size()));
  }
  return shard;
}

Shard::Shard(const ShardOptions& options, std::unique_ptr<ColdStore> cold)
    : options_(options), cold_(std::move(cold)) {}

absl::Status Shard::Remember(absl::Status status, bool fatal) {
  if (status.ok()) return status;
  status = Annotate(status, absl::StrCat("shard ", options_.number));
  if (fatal || absl::IsDataLoss(status)) failure_ = status;
  return status;
}

absl::Status Shard::AlreadyFailed() const {
  return Annotate(failure_, "stopped after an earlier error");
}

absl::Status Shard::DivideRam() {
  if (++requests_ % kDivideEvery != 0 || tables_.size() < 2) return absl::OkStatus();
  std::vector<TableDemand> demands;
  demands.reserve(tables_.size());
  for (const auto& table : tables_) demands.push_back(table->Demand());
  const std::vector<uint64_t> parts = DivideBudget(options_.ram_budget_bytes, demands);
  for (size_t t = 0; t < tables_.size(); ++t) {
    absl::Status status = tables_[t]->SetLimit(parts[t]);
    // On a full disk the table stays as large as it is, and gives way at a later division.
    if (!status.ok() && !absl::IsResourceExhausted(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status Shard::Pull(uint32_t table, const RowSelection& selection, float* rows,
                         uint32_t* updates) {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  SAVIOR_RETURN_IF_ERROR(Remember(tables_[table]->Pull(selection, rows, updates), false));
  return Remember(DivideRam(), false);
}

absl::Status Shard::Push(uint32_t table, int64_t step, const RowSelection& selection,
                         const float* grads) {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  return Remember(tables_[table]->Push(step, selection, grads), true);
}

absl::Status Shard::Put(uint32_t table, const RowSelection& selection, const float* rows) {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  return Remember(tables_[table]->Put(selection, rows), false);
}

absl::Status Shard::BringUp(uint32_t table, std::span<const uint64_t> keys) {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  return Remember(tables_[table]->BringUp(keys), false);
}

absl::Status Shard::ForEachRow(uint32_t table, RowVisitor visit) {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  // The visitor's own errors are not the shard's.
  absl::Status visitor;
  const absl::Status status = tables_[table]->ForEachRow([&](const StoredRow& row) {
    visitor = visit(row);
    return visitor;
  });
  return visitor.ok() ? Remember(status, false) : visitor;
}

absl::Status Shard::Checkpoint(const std::filesystem::path& folder) {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  std::vector<uint64_t> rows;
  for (const auto& table : tables_) {
    SAVIOR_RETURN_IF_ERROR(Remember(table->WriteBack(), false));
    rows.push_back(table->rows());
  }
  const ShardNote note =
      ShardNote::Of(options_.number, options_.shards, options_.seed, options_.tables, rows);
  SAVIOR_RETURN_IF_ERROR(Remember(cold_->PutNote(ShardNote::kName, note.Encode()), false));
  return Remember(cold_->Checkpoint(folder), false);
}

void Shard::AddStats(std::span<TableStats> stats) const {
  for (size_t t = 0; t < tables_.size(); ++t) {
    const TableStats mine = tables_[t]->Stats();
    stats[t].name = mine.name;
    stats[t].rows += mine.rows;
    stats[t].hot_rows += mine.hot_rows;
    stats[t].hot_bytes += mine.hot_bytes;
    stats[t].pulled += mine.pulled;
    stats[t].hot_hits += mine.hot_hits;
    stats[t].missing += mine.missing;
    stats[t].written_back += mine.written_back;
  }
}

}  // namespace savior
