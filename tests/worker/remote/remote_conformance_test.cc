// The remote store does what every store must, over every transport.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/ps/store_conformance.h"
#include "tests/ps/whole_rows_conformance.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

// A client that takes its server with it.
struct Owner {
  explicit Owner(const ServedOptions& options) : served(options) {}

  ServedStore served;
  std::unique_ptr<RemoteStore> store;
};

StoreMaker Maker(const std::string& name, Network network, uint32_t shards,
                 size_t message_bytes = size_t{4} << 20) {
  return {name, [=](std::vector<TableSpec> tables, uint64_t seed) {
            const ServedOptions served{std::move(tables), seed, shards, network};
            const auto owner = std::make_shared<Owner>(served);
            RemoteStoreOptions options = owner->served.ClientOptions();
            options.message_bytes = message_bytes;
            owner->store = owner->served.Connect(options);
            return std::shared_ptr<EmbeddingStore>(owner, owner->store.get());
          }};
}

const auto kMakers =
    testing::Values(Maker("ipc_1", Network::kIpc, 1), Maker("ipc_3", Network::kIpc, 3),
                    Maker("tcp_1", Network::kTcp, 1), Maker("tcp_3", Network::kTcp, 3),
                    Maker("curve_1", Network::kCurve, 1), Maker("curve_3", Network::kCurve, 3),
                    // Many messages per call.
                    Maker("small_messages_1", Network::kTcp, 1, 4096),
                    Maker("small_messages_3", Network::kTcp, 3, 4096));
std::string NameOf(const testing::TestParamInfo<StoreMaker>& maker) { return maker.param.name; }
INSTANTIATE_TEST_SUITE_P(Remote, StoreConformance, kMakers, NameOf);
INSTANTIATE_TEST_SUITE_P(Remote, WholeRows, kMakers, NameOf);

}  // namespace
}  // namespace savior
