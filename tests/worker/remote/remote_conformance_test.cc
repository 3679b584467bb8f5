// The remote store does what every store must, over every transport.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/ps/store_conformance.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

// A client that takes its server with it.
class OwningStore final : public EmbeddingStore {
 public:
  OwningStore(const ServedOptions& served, size_t message_bytes) : served_(served) {
    RemoteStoreOptions options = served_.ClientOptions();
    options.message_bytes = message_bytes;
    store_ = served_.Connect(options);
  }
  const std::vector<TableSpec>& tables() const override { return store_->tables(); }
  absl::Status Pull(std::span<const TablePull> pulls, Deadline deadline) override {
    return store_->Pull(pulls, deadline);
  }
  absl::Status Push(int64_t step, std::span<const TablePush> pushes, Deadline deadline) override {
    return store_->Push(step, pushes, deadline);
  }
  absl::Status Put(std::span<const TablePut> puts, Deadline deadline) override {
    return store_->Put(puts, deadline);
  }
  absl::Status Hint(int64_t step, std::span<const TableKeys> keys) override {
    return store_->Hint(step, keys);
  }
  absl::Status CancelHints(int64_t from_step) override { return store_->CancelHints(from_step); }
  absl::StatusOr<std::vector<TableStats>> Stats(Deadline deadline) override {
    return store_->Stats(deadline);
  }

 private:
  ServedStore served_;
  std::unique_ptr<RemoteStore> store_;
};

StoreMaker Maker(const std::string& name, Network network, uint32_t shards,
                 size_t message_bytes = size_t{4} << 20) {
  return {name, [=](std::vector<TableSpec> tables, uint64_t seed) {
            const ServedOptions served{std::move(tables), seed, shards, network};
            return std::make_unique<OwningStore>(served, message_bytes);
          }};
}

INSTANTIATE_TEST_SUITE_P(
    Remote, StoreConformance,
    testing::Values(Maker("ipc_1", Network::kIpc, 1), Maker("ipc_3", Network::kIpc, 3),
                    Maker("tcp_1", Network::kTcp, 1), Maker("tcp_3", Network::kTcp, 3),
                    Maker("curve_1", Network::kCurve, 1), Maker("curve_3", Network::kCurve, 3),
                    // Many messages per call.
                    Maker("small_messages_1", Network::kTcp, 1, 4096),
                    Maker("small_messages_3", Network::kTcp, 3, 4096)),
    [](const auto& made) { return made.param.name; });

}  // namespace
}  // namespace savior
