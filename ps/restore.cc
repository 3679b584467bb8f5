#include "ps/restore.h"

#include <absl/strings/str_cat.h>

#include <memory>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "common/failpoint.h"
#include "common/files.h"
#include "common/routing.h"
#include "ps/cold_store.h"
#include "ps/row.h"
#include "ps/shard_note.h"
#include "ps/table_rules.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Values of one write while rows are routed anew.
constexpr size_t kBatchBytes = size_t{1} << 20;

std::string SourceFolder(uint32_t shard) { return absl::StrCat("source-", shard); }

std::vector<std::string> NamesOf(std::span<const TableSpec> tables) {
  std::vector<std::string> names;
  for (const TableSpec& table : tables) names.push_back(table.name);
  return names;
}

// How many shards lie in the commit, without a gap from 0.
uint32_t CountShards(const fs::path& commit) {
  uint32_t count = 0;
  std::error_code error;
  while (fs::is_directory(commit / ShardFolder(count), error)) ++count;
  return count;
}

// A clone of the commit's shard `shard`, checked to be what its place says.
absl::StatusOr<std::unique_ptr<ColdStore>> OpenSource(const RestorePlan& plan, uint32_t shard,
                                                      uint32_t shards) {
  const fs::path clone = plan.live / SourceFolder(shard);
  SAVIOR_FAILPOINT("restore.before_clone");
  SAVIOR_RETURN_IF_ERROR(CloneCheckpoint(plan.commit / ShardFolder(shard), clone));
  SAVIOR_FAILPOINT("restore.before_open");
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<ColdStore> store,
                          ColdStore::Open(clone, NamesOf(plan.tables)));
  SAVIOR_ASSIGN_OR_RETURN(const std::optional<std::string> text, store->GetNote(ShardNote::kName));
  if (!text.has_value()) return absl::DataLossError("the shard's note is missing");
  SAVIOR_ASSIGN_OR_RETURN(const ShardNote note, ShardNote::Decode(*text));
  if (note.shard != shard || note.shards != shards) {
    return absl::DataLossError(absl::StrCat("this is shard ", note.shard, " of ", note.shards,
                                            ", in place of shard ", shard, " of ", shards));
  }
  SAVIOR_RETURN_IF_ERROR(note.Fits(plan.tables, plan.seed));
  return store;
}

// The new owners of rows that are routed anew.
class Targets {
 public:
  explicit Targets(const RestorePlan& plan)
      : plan_(plan),
        bucket_map_(EvenBucketMap(plan.shards)),
        batches_(plan.count),
        rows_(plan.count, std::vector<uint64_t>(plan.tables.size(), 0)) {}

  absl::Status Open() {
    for (uint32_t s = 0; s < plan_.count; ++s) {
      SAVIOR_ASSIGN_OR_RETURN(
          std::unique_ptr<ColdStore> store,
          ColdStore::Open(plan_.live / ShardFolder(plan_.first + s), NamesOf(plan_.tables)));
      stores_.push_back(std::move(store));
    }
    return absl::OkStatus();
  }

  absl::Status AddNote(uint32_t bucket, const std::string& name, const std::string& value) {
    const uint32_t owner = OwnerOf(bucket);
    return owner < plan_.count ? stores_[owner]->PutNote(name, value) : absl::OkStatus();
  }

  absl::Status Add(uint32_t table, uint64_t key, std::string_view stored) {
    const uint32_t owner = OwnerOf(BucketOf(table, key));
    if (owner >= plan_.count) return absl::OkStatus();
    ++rows_[owner][table];
    SAVIOR_RETURN_IF_ERROR(stores_[owner]->Put(table, key, stored, &batches_[owner]));
    return batches_[owner].bytes() < kBatchBytes ? absl::OkStatus()
                                                 : stores_[owner]->Write(&batches_[owner]);
  }

  absl::Status Finish() {
    for (uint32_t s = 0; s < plan_.count; ++s) {
      SAVIOR_RETURN_IF_ERROR(stores_[s]->Write(&batches_[s]));
      const ShardNote note =
          ShardNote::Of(plan_.first + s, plan_.shards, plan_.seed, plan_.tables, rows_[s]);
      SAVIOR_FAILPOINT("restore.before_notes");
      SAVIOR_RETURN_IF_ERROR(stores_[s]->PutNote(ShardNote::kName, note.Encode()));
      SAVIOR_FAILPOINT("restore.before_flush");
      SAVIOR_RETURN_IF_ERROR(stores_[s]->Flush());
    }
    return absl::OkStatus();
  }

 private:
  // The shard of a bucket, from the first of ours; beyond `count`: not ours.
  uint32_t OwnerOf(uint32_t bucket) const { return bucket_map_[bucket] - plan_.first; }

  const RestorePlan& plan_;
  const std::vector<uint32_t> bucket_map_;
  std::vector<std::unique_ptr<ColdStore>> stores_;  // [count]
  std::vector<ColdStore::Batch> batches_;           // [count]
  std::vector<std::vector<uint64_t>> rows_;         // [count, tables]
};

absl::Status RouteAnew(const RestorePlan& plan, const ColdStore& source, Targets* targets) {
  SAVIOR_FAILPOINT("restore.before_routing");
  for (uint32_t t = 0; t < plan.tables.size(); ++t) {
    const std::string& name = plan.tables[t].name;
    // What is forgotten is so under the horizons of the shard that it was in: it is left behind,
    // and the new shards count the others anew when they open (Table::LoadRules).
    SAVIOR_ASSIGN_OR_RETURN(const TableRules::SavedEviction saved,
                            TableRules::ReadEviction(source, name));
    const RowLayout layout(plan.tables[t]);
    std::vector<float> memory(layout.bytes() / sizeof(float));
    auto* const head = reinterpret_cast<std::byte*>(memory.data());
    const RowRef row = layout.At(head, head + layout.head_bytes());
    const absl::Status scanned = source.Scan(t, [&](uint64_t key, std::string_view stored) {
      if (saved.eviction.has_value()) {
        absl::Status decoded = layout.Decode(stored, row);
        if (!decoded.ok()) return Annotate(decoded, absl::StrCat("table ", name, ", key ", key));
        if (saved.Forgotten(key, row, layout.dim())) return absl::OkStatus();
      }
      return targets->Add(t, key, stored);
    });
    SAVIOR_RETURN_IF_ERROR(scanned);
    SAVIOR_RETURN_IF_ERROR(TableRules::ForEachAdmissionNote(
        source, name, [&](const std::string& note, const std::string& bytes, uint32_t bucket) {
          return targets->AddNote(bucket, note, bytes);
        }));
  }
  return absl::OkStatus();
}

absl::Status TakeOver(const RestorePlan& plan, uint32_t shard) {
  SAVIOR_FAILPOINT("restore.before_rename");
  std::error_code error;
  fs::rename(plan.live / SourceFolder(shard), plan.live / ShardFolder(shard), error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("renaming to ", ShardFolder(shard), ": ", error.message()));
  }
  SAVIOR_FAILPOINT("restore.after_rename");
  return absl::OkStatus();
}

}  // namespace

std::string ShardFolder(uint32_t shard) { return absl::StrCat("shard-", shard); }

absl::Status RestoreShards(const RestorePlan& plan) {
  const uint32_t sources = CountShards(plan.commit);
  if (sources == 0) {
    return absl::NotFoundError(absl::StrCat(plan.commit.string(), " holds no ", ShardFolder(0)));
  }
  const bool anew = sources != plan.shards;
  Targets targets(plan);
  if (anew) SAVIOR_RETURN_IF_ERROR(targets.Open());
  const uint32_t begin = anew ? 0 : plan.first;
  const uint32_t end = anew ? sources : plan.first + plan.count;
  for (uint32_t s = begin; s < end; ++s) {
    const std::string where = absl::StrCat("restoring ", (plan.commit / ShardFolder(s)).string());
    absl::StatusOr<std::unique_ptr<ColdStore>> source = OpenSource(plan, s, sources);
    SAVIOR_RETURN_IF_ERROR(Annotate(source.status(), where));
    if (anew) {
      SAVIOR_RETURN_IF_ERROR(Annotate(RouteAnew(plan, **source, &targets), where));
    }
    source->reset();  // closed, so that it may move or go
    SAVIOR_RETURN_IF_ERROR(
        Annotate(anew ? RemoveAll(plan.live / SourceFolder(s)) : TakeOver(plan, s), where));
  }
  return anew ? targets.Finish() : absl::OkStatus();
}

}  // namespace savior
