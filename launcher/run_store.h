// The tables of a run, as its loop needs them: a store whose rows can go into a commit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/checkpoint_place.h"
#include "ps/shard_host.h"

namespace savior {

class RunStore {
 public:
  virtual ~RunStore() = default;

  virtual EmbeddingStore& store() = 0;
  // The same rows for a second thread of the worker, beside whoever uses store(): neither waits for
  // the other's calls. Pull, ReadRows, WriteRows and Stats only: it belongs to no step.
  virtual EmbeddingStore& background() = 0;

  // All shards serve codebook version `version` from now on, and requests of another one are
  // refused as stale (kFailedPrecondition); both stores use it. For one worker at a barrier, when
  // no worker has a call of a step under way: one of background() that is may be refused. After an
  // error some shards may have switched: the call may come again, or the run ends.
  [[nodiscard]] virtual absl::Status SwitchCodebook(uint32_t version, Deadline deadline) = 0;
  // For the other workers, after it: both stores use `version`.
  virtual void UseCodebook(uint32_t version) = 0;

  virtual uint32_t shards() const = 0;
  // Who has shard `shard`, for people: "rank 3 (server on node2)".
  virtual std::string ServerOf(uint32_t shard) const = 0;
  // Every shard begins a checkpoint of its rows as they are after `steps` steps, to
  // `place.folder`/shard-<k>/, place.base being an earlier commit's folder: what
  // PlaceOfCommit(launcher/commit.h) says. Returns when all have frozen.
  [[nodiscard]] virtual absl::Status Freeze(const CheckpointPlace& place, int64_t steps,
                                            Deadline deadline) = 0;
  // False: a shard is still writing it. Errors: none is, and one has none. Any thread, while others
  // use the store. Not yet synced.
  [[nodiscard]] virtual absl::StatusOr<bool> CheckpointWritten(int64_t steps,
                                                               Deadline deadline) = 0;
};

// Where a run's processes keep their shards' working files: ps.live_dir, or live/ in run.dir.
std::filesystem::path LiveFolder(const Config& config);

// Where server number `server` keeps its shards.
std::filesystem::path ServerFolder(const Config& config, uint32_t server);

// Removes the server folders of earlier starts that had more than `servers` servers, since nothing
// else ever would. Only what is called server-<number>, holds shards' files, and is locked by no
// process; what cannot be removed is named in the log. Several processes may do it at once. For
// who holds the lock of a folder of this start.
void RemoveUnusedServerFolders(const std::filesystem::path& live, uint32_t servers);

// All shards in this process, of `config`'s tables, RAM and clock. folder: of the live databases;
// restore_from: a commit's folder, or empty.
ShardHostOptions HostOptions(const Config& config, const std::filesystem::path& folder,
                             const std::filesystem::path& restore_from);

// Shards in this process, in folder `live`. restore_from: a commit's folder, or empty.
[[nodiscard]] absl::StatusOr<std::unique_ptr<RunStore>> OpenLocalStore(
    const Config& config, const std::filesystem::path& live,
    const std::filesystem::path& restore_from);

}  // namespace savior
