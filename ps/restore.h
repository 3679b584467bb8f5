// From a commit's shards to live databases.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/store.h"

namespace savior {

struct RestorePlan {
  std::filesystem::path commit;  // holds shard-0/ .. shard-<n-1>/, each a checkpoint; only read
  // Gets shard-<first>/ .. shard-<first+count-1>/, none of which exist.
  std::filesystem::path live;
  uint32_t shards = 1;  // of the whole store
  uint32_t first = 0;
  uint32_t count = 0;
  std::vector<TableSpec> tables;
  uint64_t seed = 0;
};

// "shard-<k>": a shard's folder in a commit and in the live folder.
std::string ShardFolder(uint32_t shard);

// Makes the live databases of some shards. With as many shards as the commit has: by hard links.
// Else every row of the commit is read and routed anew, so that any number of shards gets the same
// rows. kNotFound: no shards there. kDataLoss: a shard is missing, swapped, or unreadable (named).
// kFailedPrecondition: made under other tables or another seed (named).
[[nodiscard]] absl::Status RestoreShards(const RestorePlan& plan);

}  // namespace savior
