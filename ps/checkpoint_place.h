// Where a shard's checkpoint goes, and how it gets there.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/digest_cache.h"
#include "common/status.h"
#include "ps/cold_store.h"

namespace savior {

struct CheckpointPlace {
  // Must not exist; its parent is made if need be.
  std::filesystem::path folder;
  // An earlier checkpoint of this shard, whole, on the same file system as `folder`; or empty.
  std::filesystem::path base = {};
};

// A shard's part of a place of all shards: shard-<k>/ of both folders (ps/restore.h).
CheckpointPlace PlaceOfShard(const CheckpointPlace& all, uint32_t shard);

// Writes a checkpoint of `store`, whose files are in `live`, to place.folder, so that files that
// have not changed take no space and are not written again. On the file system of `live` they are
// hard links to the live files, which RocksDB never changes. On another one the checkpoint is made
// beside `live` first, and of that, table files which the base has under the same name, with the
// same size and digest, are links to the base's; others are copied and synced. `digests` knows the
// files of earlier calls. kResourceExhausted: no space; what was written by then stays, for whom
// `place` belongs to.
[[nodiscard]] absl::Status TakeCheckpoint(ColdStore* store, const std::filesystem::path& live,
                                          const CheckpointPlace& place, DigestCache* digests);

}  // namespace savior
