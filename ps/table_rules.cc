#include "ps/table_rules.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <vector>

#include "common/random.h"
#include "common/routing.h"
#include "ps/rounding.h"

namespace savior {
namespace {

std::string EvictionNote(const std::string& table) { return "eviction." + table; }
std::string AdmissionNotes(const std::string& table) { return "admission." + table + "."; }

// A shard's part of a bound on the whole table.
EvictionSpec PartOf(EvictionSpec spec, uint32_t shards) {
  const auto part = [shards](uint64_t rows) { return (rows + shards - 1) / shards; };
  spec.capacity_rows = part(spec.capacity_rows);
  spec.floor_rows = part(spec.floor_rows);
  return spec;
}

}  // namespace

TableRules::TableRules(const TableSpec& spec, uint32_t number, uint64_t seed,
                       const RulesOptions& options)
    : spec_(spec),
      rounding_seed_(MixTwo(seed, HashName(spec.name))),
      steps_per_minute_(options.steps_per_minute),
      admission_(spec, number, seed) {
  if (spec.eviction.enabled()) eviction_.emplace(PartOf(spec.eviction, options.shards));
}

int64_t TableRules::Begin(int64_t step) {
  if (!eviction_.has_value()) return step;
  eviction_->Advance(step, static_cast<double>(step) / steps_per_minute_);
  return std::max(step, eviction_->step());
}

void TableRules::Pushed(uint64_t key, const RowRef& row, const std::optional<Before>& before) {
  RoundWeights(spec_.dtype, rounding_seed_, key, row.head.updates, {row.weights, spec_.dim});
  if (!eviction_.has_value()) return;
  const bool low = eviction_->IsLow(WeightsOf(row));
  if (before.has_value()) {
    eviction_->Touch(key, before->last_step, before->low, row.head.last_step, low);
  } else {
    eviction_->Add(key, row.head.last_step, low);
  }
}

TableRules::Saved TableRules::Save() const {
  return {.table = spec_.name,
          .eviction = eviction_.has_value() ? eviction_->Save() : std::string(),
          .admission = admission_.Save()};
}

absl::Status TableRules::Write(const Saved& saved, ColdStore* cold) {
  const std::string none;
  SAVIOR_RETURN_IF_ERROR(cold->PutNote(EvictionNote(saved.table), saved.eviction));
  // Buckets that have no counts any more must not keep their old ones.
  std::vector<std::string> stale;
  SAVIOR_RETURN_IF_ERROR(ForEachAdmissionNote(
      *cold, saved.table, [&](const std::string& name, const std::string&, uint32_t) {
        stale.push_back(name);
        return absl::OkStatus();
      }));
  for (const std::string& name : stale) SAVIOR_RETURN_IF_ERROR(cold->PutNote(name, none));
  for (const Admission::SavedBucket& bucket : saved.admission) {
    SAVIOR_RETURN_IF_ERROR(
        cold->PutNote(absl::StrCat(AdmissionNotes(saved.table), bucket.bucket), bucket.bytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<TableRules::SavedEviction> TableRules::ReadEviction(const ColdStore& cold,
                                                                   const std::string& table) {
  SavedEviction saved;
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<std::string> note, cold.GetNote(EvictionNote(table)));
  if (!note.has_value() || note->empty()) return saved;
  absl::StatusOr<Eviction> eviction = Eviction::OfSaved(*note);
  if (!eviction.ok()) return Annotate(eviction.status(), "table " + table);
  saved.eviction.emplace(*std::move(eviction));
  return saved;
}

absl::StatusOr<bool> TableRules::Load(const ColdStore& cold) {
  SAVIOR_RETURN_IF_ERROR(ForEachAdmissionNote(
      cold, spec_.name, [&](const std::string&, const std::string& bytes, uint32_t bucket) {
        return Annotate(admission_.Load(bucket, bytes), "table " + spec_.name);
      }));
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<std::string> note,
                          cold.GetNote(EvictionNote(spec_.name)));
  const bool saved = note.has_value() && !note->empty();
  if (!saved || !eviction_.has_value()) return saved == eviction_.has_value();
  const absl::Status loaded = eviction_->Load(*note);
  if (absl::IsFailedPrecondition(loaded)) return false;
  SAVIOR_RETURN_IF_ERROR(Annotate(loaded, "table " + spec_.name));
  return true;
}

void TableRules::Found(uint64_t key, const RowRef& row) {
  if (eviction_.has_value()) {
    eviction_->Add(key, row.head.last_step, eviction_->IsLow(WeightsOf(row)));
  }
}

absl::Status TableRules::ForEachAdmissionNote(
    const ColdStore& cold, const std::string& table,
    absl::FunctionRef<absl::Status(const std::string&, const std::string&, uint32_t)> note) {
  const std::string prefix = AdmissionNotes(table);
  return cold.ScanNotes(prefix, [&](const std::string& name, const std::string& bytes) {
    uint32_t bucket = 0;
    if (!absl::SimpleAtoi(name.substr(prefix.size()), &bucket) || bucket >= kBuckets) {
      return absl::DataLossError(absl::StrCat("note ", name, ": no such bucket"));
    }
    return bytes.empty() ? absl::OkStatus() : note(name, bytes, bucket);
  });
}

}  // namespace savior
