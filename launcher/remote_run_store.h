// The tables of a run as a worker of many sees them: over the network.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/transport.h"
#include "launcher/run_store.h"
#include "worker/remote_store.h"

namespace savior {

// store() and the rest for one thread, background() and what it gives for another.
class RemoteRunStore final : public RunStore {
 public:
  // options: of store(). servers: [shards], their names. context outlives it. Errors:
  // RemoteStore::Connect's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RemoteRunStore>> Connect(
      Context* context, RemoteStoreOptions options, std::vector<std::string> servers);

  EmbeddingStore& store() override { return *store_; }
  // Has connections of its own, made by the first call: most workers need none.
  EmbeddingStore& background() override;
  uint32_t shards() const override { return static_cast<uint32_t>(servers_.size()); }
  std::string ServerOf(uint32_t shard) const override { return servers_[shard]; }
  absl::Status SwitchCodebook(uint32_t version, Deadline deadline) override;
  void UseCodebook(uint32_t version) override;
  // The servers know the place.
  absl::Status Freeze(const CheckpointPlace&, int64_t steps, Deadline deadline) override {
    return store_->Freeze(steps, deadline);
  }
  absl::StatusOr<bool> CheckpointWritten(int64_t steps, Deadline deadline) override {
    return store_->CheckpointWritten(steps, deadline);
  }

 private:
  RemoteRunStore(Context* context, RemoteStoreOptions options, std::unique_ptr<RemoteStore> store,
                 std::vector<std::string> servers);

  Context* const context_;
  const RemoteStoreOptions options_;
  const std::vector<std::string> servers_;
  const std::unique_ptr<RemoteStore> store_;
  std::mutex mutex_;
  std::unique_ptr<RemoteStore> background_;  // guarded by mutex_; it stays once it is there
};

}  // namespace savior
