// Whether the lead sees what the servers have written into a commit.
//
// Servers write their shards' checkpoints on other machines. A file system over the network may
// show them late: NFS keeps names and attributes for up to a minute (acregmax, acdirmax). A commit
// lists the files that its author sees, so one who does not see them all would publish a commit
// that lacks rows and calls itself whole.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "common/status.h"

namespace savior {

// Whether shard `shard`'s checkpoint in `commit` is visible to this process: its folder is among
// commit's entries; in it are CURRENT and the file that this names (RocksDB writes it last); and
// both are readable. kNotFound or the system's error says what is not.
[[nodiscard]] absl::Status LookForShard(const std::filesystem::path& commit, uint32_t shard);

struct ShardsSeenOptions {
  // In all, at least: more than the minute that NFS may take.
  std::chrono::milliseconds wait{90'000};
  std::chrono::milliseconds pause{500};  // between two looks
  // For tests.
  std::function<absl::Status(const std::filesystem::path&, uint32_t)> look = LookForShard;
  std::function<void(std::chrono::milliseconds)> sleep = {};  // none: of this thread
};

// Waits until all `shards` checkpoints in `commit` are visible. kUnavailable names the first shard
// that is not in time, and its server as `server_of` calls it; kDataLoss one that does not read.
[[nodiscard]] absl::Status WaitForShards(const std::filesystem::path& commit, uint32_t shards,
                                         const std::function<std::string(uint32_t)>& server_of,
                                         const ShardsSeenOptions& options = {});

}  // namespace savior
