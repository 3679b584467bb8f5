// A switch of the codebook's version over the network, and whole rows beside it: several shards,
// several workers, lost messages.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/ps/busy_shard.h"
#include "tests/worker/remote/lossy_proxy.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr uint32_t kOld = ServedStore::kCodebookVersion;
constexpr uint32_t kNew = kOld + 1;

ServedOptions OneTable(uint32_t shards) {
  return {.tables = {AlignSpec("t", 4, Optimizer(OptimizerKind::kSgd, 1))}, .shards = shards};
}

// Pushes 1 to every weight of `keys`.
absl::Status PushOnes(RemoteStore& store, std::span<const uint64_t> keys, int64_t step = 0) {
  return PushRows(store, step, 0, keys, std::vector<float>(keys.size() * 4, -1));
}

void ExpectStale(const absl::Status& status) {
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("codebook version"));
}

TEST(RemoteSwitch, AllShardsServeTheNewVersionAndOtherStoresAreStaleUntilTheyUseIt) {
  ServedStore served(OneTable(3));
  const auto one = served.Connect(), other = served.Connect();
  const std::vector<uint64_t> keys = Keys(0, 100);
  ASSERT_TRUE(PushOnes(*one, keys).ok());
  ASSERT_TRUE(one->SwitchCodebook(kNew, Soon()).ok());
  EXPECT_EQ(one->codebook_version(), kNew);
  EXPECT_EQ(other->codebook_version(), kOld);
  EXPECT_TRUE(PushOnes(*one, keys).ok());
  ExpectStale(PushOnes(*other, keys));
  ExpectStale(other->Stats(Soon()).status());
  EXPECT_EQ(PullRows(*one, 0, keys).updates, std::vector<uint32_t>(100, 2));
  other->UseCodebook(kNew);
  EXPECT_TRUE(PushOnes(*other, keys).ok());
  EXPECT_EQ(PullRows(*other, 0, keys).updates, std::vector<uint32_t>(100, 3));
  // Again, to where all are; and back.
  EXPECT_TRUE(other->SwitchCodebook(kNew, Soon()).ok());
  EXPECT_TRUE(other->SwitchCodebook(kOld, Soon()).ok());
  ExpectStale(PushOnes(*one, keys));
  // Somebody who believes in another version has nothing to say.
  RemoteStoreOptions options = served.ClientOptions();
  options.codebook_version = 70;
  ExpectStale(served.Connect(options)->SwitchCodebook(71, Soon()));
  EXPECT_TRUE(PushOnes(*other, keys).ok());
}

TEST(RemoteSwitch, IsRefusedWhileCallsAreUnderWay) {
  ServedStore served(OneTable(2));
  const auto store = served.Connect();
  const std::vector<uint64_t> keys = Keys(0, 10);
  const std::vector<float> grads(40, -1);
  const TablePush push{.table = 0, .keys = keys, .grads = grads};
  const auto ticket = store->StartPush(0, {&push, 1}, Soon());
  ASSERT_TRUE(ticket.ok());
  const absl::Status refused = store->SwitchCodebook(kNew, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), HasSubstr("1 calls are under way"));
  EXPECT_EQ(store->codebook_version(), kOld);
  EXPECT_TRUE(store->Finish(*ticket).ok());
  EXPECT_TRUE(store->SwitchCodebook(kNew, Soon()).ok());
  EXPECT_EQ(PullRows(*store, 0, keys).updates, std::vector<uint32_t>(10, 1));
}

// One shard does not answer in time: the others have switched, and the call may come again, or all
// go back.
TEST(RemoteSwitch, ThatEndsInHalfIsRepeatedOrUndone) {
  for (const bool undo : {false, true}) {
    SCOPED_TRACE(undo);
    ServedStore served(OneTable(3));
    const auto store = served.Connect();
    const std::vector<uint64_t> keys = Keys(0, 100);
    {
      const BusyShard busy(&served.local());
      const absl::Status late = store->SwitchCodebook(kNew, DeadlineIn(milliseconds(100)));
      EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
      EXPECT_THAT(late.message(), HasSubstr("shard 0"));
      EXPECT_EQ(store->codebook_version(), kOld);
      if (undo) {
        // What shard 0 has not read yet comes first there.
        store->UseCodebook(kNew);
      }
    }
    ASSERT_TRUE(store->SwitchCodebook(undo ? kOld : kNew, Soon()).ok());
    EXPECT_TRUE(PushOnes(*store, keys).ok());
    EXPECT_EQ(PullRows(served.local(), 0, keys).updates, std::vector<uint32_t>(100, 1));
    RemoteStoreOptions options = served.ClientOptions();
    options.codebook_version = undo ? kNew : kOld;
    for (uint64_t key = 0; key < 20; ++key) {  // of every shard
      ExpectStale(PushOnes(*served.Connect(options), Keys(key, key + 1)));
    }
  }
}

// Lost, doubled, delayed and reordered messages around many switches: every push and write is
// applied once, under its version, and no late switch goes back.
TEST(RemoteSwitch, ALossyNetworkChangesNoRowAndNoVersion) {
  ServedStore served(OneTable(2));
  std::vector<std::unique_ptr<LossyProxy>> proxies;
  const auto connect = [&] {
    RemoteStoreOptions options = served.ClientOptions();
    options.retry_after = milliseconds(10);
    for (std::string& endpoint : options.endpoints) {
      proxies.push_back(std::make_unique<LossyProxy>(&served.context(), endpoint, proxies.size()));
      endpoint = proxies.back()->endpoint();
    }
    return served.Connect(options);
  };
  const auto one = connect(), other = connect();
  const std::vector<uint64_t> keys = Keys(0, 40), copies = Keys(100, 140);
  constexpr uint32_t kSwitches = 40;
  for (uint32_t i = 0; i < kSwitches; ++i) {
    ASSERT_TRUE(PushOnes(*one, keys).ok());
    ASSERT_TRUE(PushOnes(*other, keys).ok());
    const Pulled rows = ReadWhole(*one, 0, keys);
    ASSERT_TRUE(WriteWhole(*one, i, 0, copies, rows).ok());
    ASSERT_TRUE(PushOnes(*other, copies).ok());
    EXPECT_EQ(rows.updates, std::vector<uint32_t>(40, 2 * (i + 1)));
    // Up, with steps back among them.
    const uint32_t version = kOld + (i % 3 == 2 ? i - 1 : i + 1);
    const absl::Status status = one->SwitchCodebook(version, Soon());
    ASSERT_TRUE(status.ok()) << status;
    // Not under the version that the next switch goes back to: a late copy would be served there.
    if (i % 3 != 1) ExpectStale(PushOnes(*other, keys));
    other->UseCodebook(version);
  }
  const Pulled rows = PullRows(served.local(), 0, keys);
  EXPECT_EQ(rows.rows, std::vector<float>(160, 2 * kSwitches));
  EXPECT_EQ(rows.updates, std::vector<uint32_t>(40, 2 * kSwitches));
  EXPECT_EQ(PullRows(served.local(), 0, copies).rows, std::vector<float>(160, 2 * kSwitches + 1));
  int lost = 0, doubled = 0;
  for (const auto& proxy : proxies) {
    lost += proxy->lost();
    doubled += proxy->doubled();
  }
  EXPECT_GT(lost, 10);
  EXPECT_GT(doubled, 10);
}

// Two workers that train by steps, each with a thread beside it that reads and writes whole rows.
TEST(RemoteSwitch, OfTwoWorkersAtAStepGoesUnnoticedByTheRows) {
  for (const bool switches : {false, true}) {
    SCOPED_TRACE(switches);
    ServedOptions options = OneTable(2);
    options.steps = StepRules{.workers = 2};
    ServedStore served(options);
    std::vector<std::unique_ptr<RemoteStore>> workers;
    for (uint16_t w = 0; w < 2; ++w) {
      RemoteStoreOptions client = served.ClientOptions();
      client.worker = w;
      workers.push_back(served.Connect(client));
    }
    const std::vector<uint64_t> keys = Keys(0, 50);
    const auto train = [&](RemoteStore* store, int64_t first, int64_t last) {
      for (int64_t step = first; step < last; ++step) {
        std::vector<float> rows(keys.size() * 4);
        const TablePull pull{.table = 0, .keys = keys, .rows = rows};
        const auto ticket = store->StartPull(step, {&pull, 1}, Soon());
        ASSERT_TRUE(ticket.ok() && store->Finish(*ticket).ok());
        EXPECT_EQ(rows, std::vector<float>(rows.size(), static_cast<float>(2 * step)));
        const absl::Status pushed = PushOnes(*store, keys, step);
        ASSERT_TRUE(pushed.ok()) << pushed;
      }
    };
    const auto both = [&](int64_t first, int64_t last) {
      std::thread thread([&] { train(workers[1].get(), first, last); });
      train(workers[0].get(), first, last);
      thread.join();
    };
    both(0, 5);
    if (switches) {
      // A pull of a step that has not come waits, and does not outlive the switch.
      std::vector<float> rows(keys.size() * 4);
      const TablePull pull{.table = 0, .keys = keys, .rows = rows};
      const auto early = workers[1]->StartPull(6, {&pull, 1}, Soon());
      ASSERT_TRUE(early.ok());
      ASSERT_TRUE(workers[0]->SwitchCodebook(kNew, Soon()).ok());
      ExpectStale(workers[1]->Finish(*early));
      ExpectStale(workers[1]->Push(5, {}, Soon()));
      workers[1]->UseCodebook(kNew);
    }
    both(5, 10);
    const Pulled rows = PullRows(*workers[0], 0, keys);
    EXPECT_EQ(rows.rows, std::vector<float>(200, 20));
    EXPECT_EQ(rows.updates, std::vector<uint32_t>(50, 10));
  }
}

// 16-bit pulls and pushes, but whole rows as they are.
TEST(RemoteSwitch, WholeRowsAreFloat32OnAnyWire) {
  ServedStore served({.tables = {AlignSpec("t", 4, Optimizer(OptimizerKind::kAdam, 0.1f))}});
  const std::vector<uint64_t> keys = Keys(0, 30);
  Random random(1);
  ASSERT_TRUE(PushRows(served.local(), 0, 0, keys, RandomFloats(120, &random)).ok());
  const Pulled rows = ReadWhole(served.local(), 0, keys);
  RemoteStoreOptions options = served.ClientOptions();
  options.wire_dtype = ValueDtype::kBfloat16;
  const auto store = served.Connect(options);
  EXPECT_EQ(ReadWhole(*store, 0, keys), rows);
  EXPECT_NE(PullRows(*store, 0, keys), PullRows(served.local(), 0, keys));
  ASSERT_TRUE(WriteWhole(*store, 0, 0, Keys(100, 130), rows).ok());
  EXPECT_EQ(ReadWhole(served.local(), 0, Keys(100, 130)), rows);
}

}  // namespace
}  // namespace savior
