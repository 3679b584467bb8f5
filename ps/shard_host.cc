#include "ps/shard_host.h"

#include <absl/strings/str_cat.h>

#include <system_error>
#include <utility>

#include "common/routing.h"
#include "ps/restore.h"
#include "ps/table_spec.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = "lock";

// Deletes the databases of an earlier store, and nothing else.
absl::Status ClearLiveFolder(const fs::path& folder) {
  std::vector<fs::path> stale;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  while (!error && entry != fs::directory_iterator()) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with("shard-") || name.starts_with("source-")) stale.push_back(entry->path());
    entry.increment(error);
  }
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("listing ", folder.string(), ": ", error.message()));
  }
  for (const fs::path& path : stale) SAVIOR_RETURN_IF_ERROR(RemoveAll(path));
  return absl::OkStatus();
}

absl::Status CheckCounts(const ShardHostOptions& options) {
  if (options.shards < 1 || options.shards > kBuckets) {
    return absl::InvalidArgumentError(absl::StrCat(options.shards, " shards: must be 1 to ",
                                                   kBuckets, ", the number of buckets of keys"));
  }
  if (options.first + options.count > options.shards) {
    return absl::InvalidArgumentError(absl::StrCat("shards ", options.first, " to ",
                                                   options.first + options.count - 1, " of ",
                                                   options.shards));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RemoveLiveFolder(const fs::path& folder) {
  const fs::path name = folder / kLock;
  std::error_code error;
  // Taking the lock would make one.
  if (!fs::is_regular_file(fs::symlink_status(name, error))) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder.string(), " has no ", kLock, ": not a folder of shards"));
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::unique_ptr<FileLock> lock, FileLock::Take(name));
  SAVIOR_RETURN_IF_ERROR(ClearLiveFolder(folder));
  // Who opens the file from now on makes a new one or, with the folder, fails; who has opened it
  // already cannot lock it, or finds it removed (FileLock::Take).
  SAVIOR_RETURN_IF_ERROR(RemoveAll(name));
  // With something of others in it, it stays.
  fs::remove(folder, error);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ShardHost>> ShardHost::Open(ShardHostOptions options) {
  SAVIOR_RETURN_IF_ERROR(ValidateTables(options.tables));
  if (options.count == 0) options.count = options.shards - options.first;
  SAVIOR_RETURN_IF_ERROR(CheckCounts(options));
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(options.folder));
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<FileLock> lock, FileLock::Take(options.folder / kLock));
  SAVIOR_RETURN_IF_ERROR(ClearLiveFolder(options.folder));
  if (!options.restore_from.empty()) {
    SAVIOR_RETURN_IF_ERROR(RestoreShards({.commit = options.restore_from,
                                          .live = options.folder,
                                          .shards = options.shards,
                                          .first = options.first,
                                          .count = options.count,
                                          .tables = options.tables,
                                          .seed = options.seed}));
  }
  std::unique_ptr<ShardHost> host(new ShardHost(std::move(options), std::move(lock)));
  const ShardHostOptions& o = host->options_;
  for (uint32_t s = o.first; s < o.first + o.count; ++s) {
    SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<Shard> shard,
                            Shard::Open({.number = s,
                                         .shards = o.shards,
                                         .tables = o.tables,
                                         .ram_budget_bytes = o.ram_budget_bytes / o.count,
                                         .seed = o.seed,
                                         .steps_per_minute = o.steps_per_minute,
                                         .folder = o.folder / ShardFolder(s),
                                         .held_bytes = o.held_bytes,
                                         .use = o.use}));
    host->threads_.push_back(std::make_unique<ShardThread>(std::move(shard)));
  }
  return host;
}

void ShardHost::Stop() {
  for (const auto& thread : threads_) thread->Stop();
}

}  // namespace savior
