#include "launcher/inspected_commit.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Looking needs no hot rows; this is room for the walk.
constexpr uint64_t kRamBytes = uint64_t{64} << 20;

}  // namespace

absl::StatusOr<Commit> FindCommit(const fs::path& given, bool digests) {
  std::error_code error;
  if (!fs::is_directory(given, error)) {
    return absl::NotFoundError(fmt::format("{}: no such folder", given.string()));
  }
  // What lies above a commit is looked at, too: "." and "commit-1/" have nothing above them.
  const fs::path path = fs::canonical(given, error);
  if (error) {
    return absl::UnavailableError(fmt::format("{}: {}", given.string(), error.message()));
  }
  if (fs::is_directory(path / "commits", error)) return NewestCommit(path / "commits");
  absl::StatusOr<Commit> commit = OpenCommit(path, digests);
  if (!absl::IsNotFound(commit.status())) return commit;
  return absl::NotFoundError(
      fmt::format("{}: neither a run folder (no commits/ in it) nor a commit (no manifest.json)",
                  path.string()));
}

absl::StatusOr<std::unique_ptr<InspectedCommit>> InspectedCommit::Open(const fs::path& path) {
  std::unique_ptr<InspectedCommit> inspected(new InspectedCommit);
  SAVIOR_ASSIGN_OR_RETURN(inspected->commit_, FindCommit(path));
  const Commit& commit = inspected->commit_;
  SAVIOR_ASSIGN_OR_RETURN(inspected->config_,
                          LoadConfig((commit.folder / kResolvedFile).string(), {}));
  SAVIOR_ASSIGN_OR_RETURN(inspected->live_, TemporaryFolder::Make("inspect"));
  LocalStoreOptions options;
  options.tables = commit.manifest.tables;
  options.shards = commit.manifest.shards;
  options.ram_budget_bytes = kRamBytes;
  options.folder = inspected->live_->path();
  options.seed = static_cast<uint64_t>(inspected->config_.seed);
  options.use = ColdUse::kLook;
  options.restore_from = commit.folder;
  SAVIOR_ASSIGN_OR_RETURN(inspected->store_, LocalStore::Open(options));
  return inspected;
}

std::optional<uint64_t> InspectedCommit::KeyInBundle(uint32_t table, uint64_t key) const {
  if (table == kAlignTable) {
    if (SlotOfAlignKey(key) != CodebookSlot(codebook_version())) return std::nullopt;
    return WithoutSlot(key);
  }
  if (table == kPrefixTable) {
    if (!IsOfBuild(key, codebook_build())) return std::nullopt;
    return WithoutBuild(key);
  }
  return key;
}

uint64_t InspectedCommit::KeyInCommit(uint32_t table, uint64_t key) const {
  if (table == kAlignTable) return key | AlignKey(codebook_version(), 0, 0);
  if (table == kPrefixTable) return key | PrefixKey(codebook_build(), 1, 0);
  return key;
}

absl::StatusOr<uint32_t> InspectedCommit::TableNamed(const std::string& name) const {
  const std::vector<TableSpec>& tables = commit_.manifest.tables;
  std::vector<std::string> names;
  for (uint32_t t = 0; t < tables.size(); ++t) {
    if (tables[t].name == name) return t;
    names.push_back(tables[t].name);
  }
  if (names.empty()) {
    return absl::NotFoundError(fmt::format("{}: no tables", commit_.folder.string()));
  }
  return absl::NotFoundError(fmt::format("{}: no table \"{}\"; nearest is \"{}\"",
                                         commit_.folder.string(), name, Nearest(name, names)));
}

}  // namespace savior
