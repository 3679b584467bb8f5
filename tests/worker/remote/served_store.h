// A LocalStore, a server on it and a client of that, in one process.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/transport.h"
#include "ps/local_store.h"
#include "ps/restore.h"
#include "ps/server.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"
#include "worker/remote_store.h"

namespace savior {

enum class Network { kIpc, kTcp, kCurve };

struct ServedOptions {
  std::vector<TableSpec> tables;
  uint64_t seed = 0;
  uint32_t shards = 1;
  Network network = Network::kTcp;
  std::optional<StepRules> steps = std::nullopt;
  double steps_per_minute = 1000;  // of eviction
  size_t max_waiting_bytes = ServerOptions{}.max_waiting_bytes;
};

// What has become of the checkpoint of `step`, when no shard writes it any more.
inline absl::Status AwaitCheckpoint(RemoteStore& store, int64_t step) {
  const Deadline deadline = Soon();
  while (true) {
    const absl::StatusOr<bool> written = store.CheckpointWritten(step, deadline);
    if (!written.ok() || *written) return written.status();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

class ServedStore {
 public:
  static constexpr uint64_t kIncarnation = 7;
  static constexpr uint32_t kCodebookVersion = 3;

  explicit ServedStore(const ServedOptions& options) : options_(options) {
    auto local = LocalStore::Open({.tables = options.tables,
                                   .shards = options.shards,
                                   .ram_budget_bytes = uint64_t{64} << 20,
                                   .folder = folder_ / "live",
                                   .seed = options.seed,
                                   .steps_per_minute = options.steps_per_minute});
    EXPECT_TRUE(local.ok()) << local.status();
    local_ = *std::move(local);
    Serve();
  }

  // Starts a server where there is none: tcp ports are new ones.
  void Serve() {
    ServerOptions options{
        .endpoint = options_.network == Network::kIpc ? "ipc://" + (folder_ / "shard").string()
                                                      : "tcp://127.0.0.1:0",
        .incarnation = kIncarnation,
        .codebook_version = kCodebookVersion,
        .steps = options_.steps,
        .checkpoint_place =
            [this](int64_t step, uint32_t shard) {
              return CheckpointPlace{.folder = Checkpoint(step) / ShardFolder(shard)};
            },
        .max_waiting_bytes = options_.max_waiting_bytes};
    if (options_.network == Network::kCurve) {
      options.security.keys = server_keys_;
      EXPECT_TRUE(context_.AllowClients({&client_keys_.public_key, 1}).ok());
    }
    auto server = Server::Start(&local_->host(), &context_, options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void StopServing() { server_.reset(); }

  // How a client of this server is made; tests change some of it.
  RemoteStoreOptions ClientOptions() const {
    RemoteStoreOptions options{.tables = options_.tables,
                               .endpoints = server_->endpoints(),
                               .incarnation = kIncarnation,
                               .codebook_version = kCodebookVersion,
                               .clocked = options_.steps.has_value()};
    if (options_.network == Network::kCurve) {
      options.security = {.keys = client_keys_, .server_key = server_keys_.public_key};
    }
    return options;
  }
  std::unique_ptr<RemoteStore> Connect(const RemoteStoreOptions& options) {
    auto store = RemoteStore::Connect(&context_, options);
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  std::unique_ptr<RemoteStore> Connect() { return Connect(ClientOptions()); }

  // Where a checkpoint of `step` goes.
  std::filesystem::path Checkpoint(int64_t step) const {
    return folder_ / ("checkpoint-" + std::to_string(step));
  }

  LocalStore& local() { return *local_; }
  Context& context() { return context_; }
  const std::vector<std::string>& endpoints() const { return server_->endpoints(); }

 private:
  const ServedOptions options_;
  const TempFolder folder_;
  const CurveKeys server_keys_ = CurveKeys::Make();
  const CurveKeys client_keys_ = CurveKeys::Make();
  Context context_;
  std::unique_ptr<LocalStore> local_;
  std::unique_ptr<Server> server_;
};

}  // namespace savior
