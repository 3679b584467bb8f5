#include "ps/shard.h"

#include <absl/strings/str_cat.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "common/at_once.h"
#include "ps/ram_budget.h"
#include "ps/shard_note.h"

namespace savior {
namespace {

// Requests between two divisions of the RAM: often enough to follow a table that grows, seldom
// enough not to matter.
constexpr uint64_t kDivideEvery = 64;

// Until the next try to write ahead of need; pushes try on their own.
constexpr std::chrono::milliseconds kAfterFullDisk{100};

}  // namespace

absl::StatusOr<std::unique_ptr<Shard>> Shard::Open(const ShardOptions& options) {
  std::vector<std::string> names;
  for (const TableSpec& table : options.tables) names.push_back(table.name);
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<ColdStore> cold,
                          ColdStore::Open(options.folder, names, options.use));
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<std::string> text, cold->GetNote(ShardNote::kName));
  std::vector<uint64_t> rows(options.tables.size(), 0);
  if (text.has_value()) {
    SAVIOR_ASSIGN_OR_RETURN(const ShardNote note, ShardNote::Decode(*text));
    SAVIOR_RETURN_IF_ERROR(note.Fits(options.tables, options.seed));
    for (size_t t = 0; t < note.tables.size(); ++t) rows[t] = note.tables[t].rows;
  }
  std::unique_ptr<Shard> shard(new Shard(options, std::move(cold)));
  for (uint32_t t = 0; t < options.tables.size(); ++t) {
    shard->tables_.push_back(std::make_unique<Table>(
        options.tables[t], t, options.seed, rows[t], shard->cold_.get(),
        options.ram_budget_bytes / options.tables.size(), options.ram_budget_bytes,
        RulesOptions{.shards = options.shards, .steps_per_minute = options.steps_per_minute}));
    SAVIOR_RETURN_IF_ERROR(shard->tables_.back()->LoadRules());
  }
  return shard;
}

Shard::Shard(const ShardOptions& options, std::unique_ptr<ColdStore> cold)
    : options_(options), cold_(std::move(cold)) {
  cold_thread_ = std::make_unique<ColdThread>(cold_.get(), [this] {
    const std::lock_guard lock(wake_mutex_);
    if (wake_) wake_();
  });
}

void Shard::SetWake(std::function<void()> wake) {
  const std::lock_guard lock(wake_mutex_);
  wake_ = std::move(wake);
}

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
  std::vector<uint64_t> limits;
  for (const auto& table : tables_) {
    demands.push_back(table->Demand());
    limits.push_back(table->limit_bytes());
  }
  std::vector<uint64_t> held;
  for (const auto& table : tables_) held.push_back(table->Stats().hot_bytes);
  const std::vector<uint64_t> next =
      Approach(limits, held, DivideBudget(options_.ram_budget_bytes, demands));
  for (size_t t = 0; t < tables_.size(); ++t) {
    if (next[t] == limits[t]) continue;
    absl::Status status = tables_[t]->SetLimit(next[t]);
    // On a full disk the table stays as large as it is, and gives way at a later division.
    if (!status.ok() && !absl::IsResourceExhausted(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status Shard::TakeIn(ColdJob job) {
  if (auto* const read = std::get_if<ColdRead>(&job)) {
    return Remember(tables_[read->table]->FinishRead(*read), false);
  }
  if (std::holds_alternative<PageTouch>(job)) return absl::OkStatus();
  if (auto* const checkpoint = std::get_if<ColdCheckpoint>(&job)) {
    return TakeInCheckpoint(*checkpoint);
  }
  if (const auto* const slice = std::get_if<ColdSlice>(&job)) return TakeInSlice(*slice);
  const auto& write = std::get<ColdWrite>(job);
  if (absl::IsResourceExhausted(write.status)) clean_after_ = DeadlineIn(kAfterFullDisk);
  return Remember(tables_[write.table]->FinishWrite(write), false);
}

absl::Status Shard::Begin() {
  while (std::optional<ColdJob> job = cold_thread_->TakeDone()) {
    SAVIOR_RETURN_IF_ERROR(TakeIn(*std::move(job)));
  }
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  return KeepUp();
}

bool Shard::AfterFullDisk() {
  if (clean_after_ == SteadyClock::time_point()) return false;
  if (SteadyClock::now() < clean_after_) return true;
  clean_after_ = {};
  return false;
}

absl::Status Shard::Quiesce() {
  while (std::optional<ColdJob> job = cold_thread_->WaitDone()) {
    SAVIOR_RETURN_IF_ERROR(TakeIn(*std::move(job)));
  }
  return AlreadyFailed();
}

absl::Status Shard::WorkAhead() {
  for (const auto& table : tables_) {
    if (std::optional<PageTouch> touch = table->TouchAhead()) cold_thread_->Post(*std::move(touch));
  }
  if (AfterFullDisk()) return absl::OkStatus();
  for (const auto& table : tables_) {
    SAVIOR_ASSIGN_OR_RETURN(std::optional<ColdWrite> write, table->CleanAhead());
    if (write.has_value()) cold_thread_->Post(*std::move(write));
  }
  return absl::OkStatus();
}

bool Shard::Tend() {
  // An error ends the shard, and the next request says so.
  if (!Begin().ok() || !Remember(WorkAhead(), true).ok()) return false;
  bool more = GoOnWriting();
  for (const auto& table : tables_) {
    more |= table->Maintain();
    const absl::StatusOr<bool> swept = table->Sweep();
    if (!Remember(swept.status(), true).ok()) return false;
    more |= *swept;
  }
  return more;
}

absl::Status Shard::Pull(uint32_t table, const RowSelection& selection, float* rows,
                         uint32_t* updates) {
  SAVIOR_RETURN_IF_ERROR(Begin());
  SAVIOR_RETURN_IF_ERROR(Remember(tables_[table]->Pull(selection, rows, updates), false));
  return Remember(DivideRam(), false);
}

absl::Status Shard::PrepareToWrite(std::span<const WritePart> parts) {
  SAVIOR_RETURN_IF_ERROR(Begin());
  for (const WritePart& part : parts) {
    SAVIOR_RETURN_IF_ERROR(Remember(tables_[part.table]->PrepareToWrite(), false));
  }
  return absl::OkStatus();
}

absl::Status Shard::Push(int64_t step, std::span<const WritePart> parts) {
  SAVIOR_RETURN_IF_ERROR(PrepareToWrite(parts));
  for (const auto& table : tables_) table->Begin(step);
  for (const WritePart& part : parts) {
    SAVIOR_RETURN_IF_ERROR(
        Remember(tables_[part.table]->Push(step, part.selection, part.values), true));
  }
  return Remember(WorkAhead(), true);
}

absl::Status Shard::Put(std::span<const WritePart> parts) {
  SAVIOR_RETURN_IF_ERROR(PrepareToWrite(parts));
  for (const WritePart& part : parts) {
    SAVIOR_RETURN_IF_ERROR(Remember(tables_[part.table]->Put(part.selection, part.values), false));
  }
  return Remember(WorkAhead(), true);
}

absl::Status Shard::ReadRows(uint32_t table, const RowSelection& selection, float* rows,
                             uint32_t* updates) {
  SAVIOR_RETURN_IF_ERROR(Begin());
  SAVIOR_RETURN_IF_ERROR(Remember(tables_[table]->ReadRows(selection, rows, updates), false));
  return Remember(DivideRam(), false);
}

absl::Status Shard::WriteRows(int64_t step, std::span<const WritePart> parts) {
  SAVIOR_RETURN_IF_ERROR(PrepareToWrite(parts));
  // The other tables do not hear of the step: it may be one whose pushes are yet to come.
  for (const WritePart& part : parts) {
    SAVIOR_RETURN_IF_ERROR(Remember(
        tables_[part.table]->WriteRows(step, part.selection, part.values, part.updates), false));
  }
  return Remember(WorkAhead(), true);
}

absl::Status Shard::Hint(uint32_t table, int64_t step, std::span<const uint64_t> keys) {
  SAVIOR_RETURN_IF_ERROR(Begin());
  std::optional<ColdRead> read = tables_[table]->Hint(step, keys);
  if (read.has_value()) cold_thread_->Post(*std::move(read));
  return absl::OkStatus();
}

absl::Status Shard::CancelHints(int64_t from_step) {
  SAVIOR_RETURN_IF_ERROR(Begin());
  for (const auto& table : tables_) table->CancelHints(from_step);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::optional<uint64_t>>> Shard::VisitRows(
    uint32_t table, std::span<const RowRange> ranges, RangeVisitor visit) {
  // The rows are read from the cold store.
  SAVIOR_RETURN_IF_ERROR(FinishCheckpoint());
  SAVIOR_RETURN_IF_ERROR(WriteHeld(0));
  SAVIOR_RETURN_IF_ERROR(Quiesce());
  SAVIOR_RETURN_IF_ERROR(Remember(tables_[table]->WriteBack(), false));
  // Until all have ended this thread is in here, and the second one has nothing to do: so nothing
  // changes.
  const Table& rows = *tables_[table];
  std::vector<std::optional<uint64_t>> next(ranges.size());
  std::vector<absl::Status> damage(ranges.size());
  const absl::Status visited = AtOnce(ranges.size(), [&](size_t r) -> absl::Status {
    absl::Status visitor;
    absl::StatusOr<std::optional<uint64_t>> end =
        rows.VisitRows(ranges[r], [&](const StoredRow& row) {
          absl::Status status = visit(r, row);
          if (!status.ok()) visitor = status;
          return status;
        });
    // The visitor's own errors are not the shard's.
    if (!visitor.ok()) return visitor;
    if (end.ok()) {
      next[r] = *end;
    } else {
      damage[r] = end.status();
    }
    return absl::OkStatus();
  });
  for (absl::Status& status : damage) SAVIOR_RETURN_IF_ERROR(Remember(std::move(status), false));
  SAVIOR_RETURN_IF_ERROR(visited);
  return next;
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
    stats[t].hinted += mine.hinted;
    stats[t].admitted += mine.admitted;
    stats[t].refused += mine.refused;
    stats[t].evicted += mine.evicted;
    stats[t].skipped += mine.skipped;
  }
}

}  // namespace savior
