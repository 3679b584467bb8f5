#include "launcher/shards_seen.h"

#include <absl/strings/str_cat.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <system_error>
#include <thread>

#include "common/files.h"
#include "ps/restore.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Whether reading `folder` gives `name`. Not the same question as whether the name can be opened:
// a listing may be older than that, and listings are what a commit is made of.
absl::Status LookInListing(const fs::path& folder, const std::string& name) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  while (!error && entry != fs::directory_iterator()) {
    if (entry->path().filename() == name) return absl::OkStatus();
    entry.increment(error);
  }
  if (error) return SystemError(error.value(), absl::StrCat("listing ", folder.string()));
  return absl::NotFoundError(absl::StrCat("no ", name, " in ", folder.string()));
}

}  // namespace

absl::Status LookForShard(const fs::path& commit, uint32_t shard) {
  const fs::path folder = commit / ShardFolder(shard);
  SAVIOR_RETURN_IF_ERROR(LookInListing(commit, ShardFolder(shard)));
  SAVIOR_RETURN_IF_ERROR(LookInListing(folder, "CURRENT"));
  SAVIOR_ASSIGN_OR_RETURN(std::string manifest, ReadFile(folder / "CURRENT"));
  if (!manifest.ends_with('\n')) {
    return absl::NotFoundError(absl::StrCat((folder / "CURRENT").string(), " is not whole"));
  }
  manifest.pop_back();
  SAVIOR_RETURN_IF_ERROR(LookInListing(folder, manifest));
  return ReadFile(folder / manifest).status();
}

absl::Status WaitForShards(const fs::path& commit, uint32_t shards,
                           const std::function<std::string(uint32_t)>& server_of,
                           const ShardsSeenOptions& options) {
  std::chrono::milliseconds waited{0};
  for (uint32_t shard = 0; shard < shards; ++shard) {
    absl::Status seen = options.look(commit, shard);
    // What does not read will not by waiting.
    while (!seen.ok() && !absl::IsDataLoss(seen) && waited < options.wait) {
      LOG_IF(INFO, waited.count() == 0) << "waiting for " << commit.string() << ": " << seen;
      if (options.sleep) {
        options.sleep(options.pause);
      } else {
        std::this_thread::sleep_for(options.pause);
      }
      waited += options.pause;
      seen = options.look(commit, shard);
    }
    if (seen.ok()) continue;
    if (absl::IsDataLoss(seen)) return Annotate(seen, absl::StrCat("shard ", shard));
    return absl::UnavailableError(fmt::format(
        "shard {} of {} has written its checkpoint, but it cannot be seen here after {} s: {}. "
        "run.dir must be on a file system that all hosts share and that shows new files within "
        "that time (NFS: acdirmax)",
        shard, server_of(shard), std::chrono::duration_cast<std::chrono::seconds>(waited).count(),
        std::string(seen.message())));
  }
  return absl::OkStatus();
}

}  // namespace savior
