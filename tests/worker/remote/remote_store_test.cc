#include "worker/remote_store.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <utility>

#include "common/half.h"
#include "tests/faults/figure.h"
#include "tests/ps/busy_shard.h"
#include "tests/worker/remote/lossy_proxy.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

ServedOptions OneTable(uint32_t shards = 1, Network network = Network::kTcp) {
  return {.tables = {AlignSpec("t", 4, Optimizer(OptimizerKind::kSgd, 1))},
          .shards = shards,
          .network = network};
}

// How long `call` took.
template <typename Call>
milliseconds Timed(Call call) {
  const auto start = SteadyClock::now();
  call();
  return std::chrono::duration_cast<milliseconds>(SteadyClock::now() - start);
}

TEST(RemoteStore, BadOptionsAreRefused) {
  Context context;
  const auto refused = [&](auto change) {
    RemoteStoreOptions options;
    options.endpoints = {"tcp://127.0.0.1:1"};
    change(options);
    EXPECT_TRUE(absl::IsInvalidArgument(RemoteStore::Connect(&context, options).status()));
  };
  refused([](RemoteStoreOptions& o) { o.endpoints.clear(); });
  refused([](RemoteStoreOptions& o) { o.max_in_flight = 0; });
  refused([](RemoteStoreOptions& o) { o.max_in_flight = 65; });
  refused([](RemoteStoreOptions& o) { o.retry_after = milliseconds(0); });
  refused([](RemoteStoreOptions& o) { o.message_bytes = 10; });
  refused([](RemoteStoreOptions& o) { o.endpoints = {"tcp://192.0.2.1:1"}; });
}

TEST(RemoteStore, AServerThatIsNotThereEndsInANamedErrorAtTheDeadline) {
  Context context;
  const auto store = *RemoteStore::Connect(
      &context, {.tables = OneTable().tables, .endpoints = {"tcp://127.0.0.1:1"}});
  const std::vector<uint64_t> keys = {1, 2, 3};
  std::vector<float> rows(12);
  const TablePull pull{.table = 0, .keys = keys, .rows = rows};
  absl::Status status;
  const milliseconds took = Timed([&] {
    status = store->Pull({&pull, 1}, DeadlineIn(milliseconds(200)));
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("pull of 3 keys"));
  EXPECT_THAT(status.message(), HasSubstr("no connection to shard 0 at tcp://127.0.0.1:1"));
  EXPECT_GE(took, milliseconds(200));
  EXPECT_LT(took, milliseconds(1000));
  EXPECT_TRUE(store->Hint(0, {}).ok());
  EXPECT_TRUE(HintRows(*store, 0, keys).ok());
}

TEST(RemoteStore, AServerThatDiesEndsInANamedErrorAtTheDeadline) {
  for (const uint32_t shards : {1u, 3u}) {
    ServedStore served(OneTable(shards));
    const auto store = served.Connect();
    const std::vector<uint64_t> keys = Keys(0, 100);
    ASSERT_EQ(PullRows(*store, 0, keys).rows.size(), 400u);
    const std::string endpoint = served.endpoints()[0];
    served.StopServing();
    std::vector<float> rows(400);
    const TablePush push{.table = 0, .keys = keys, .grads = rows};
    absl::Status status;
    const milliseconds took = Timed([&] {
      status = store->Push(0, {&push, 1}, DeadlineIn(milliseconds(200)));
    });
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("push of 100 keys"));
    EXPECT_THAT(status.message(), HasSubstr("shard 0 at " + endpoint));
    EXPECT_LT(took, milliseconds(1000));
  }
}

TEST(RemoteStore, AServerThatComesBackIsUsedAgain) {
  ServedStore served(OneTable(2, Network::kIpc));  // the same addresses again
  const auto store = served.Connect();
  const std::vector<uint64_t> keys = Keys(0, 100);
  ASSERT_TRUE(PushRows(*store, 0, 0, keys, std::vector<float>(400, -1)).ok());
  served.StopServing();
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(200));
    served.Serve();
  });
  ASSERT_TRUE(PushRows(*store, 1, 0, keys, std::vector<float>(400, -1)).ok());
  later.join();
  EXPECT_EQ(PullRows(*store, 0, keys).rows, std::vector<float>(400, 2));
}

TEST(RemoteStore, OtherIncarnationsAndCodebookVersionsAreRefused) {
  ServedStore served(OneTable());
  RemoteStoreOptions options = served.ClientOptions();
  options.incarnation = 6;
  EXPECT_THAT(PushRows(*served.Connect(options), 0, 0, Keys(0, 1), std::vector<float>(4)).message(),
              HasSubstr("incarnation 6 of the run: this is incarnation 7"));
  options = served.ClientOptions();
  options.codebook_version = 2;
  const absl::Status status = served.Connect(options)->Stats(Soon()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(status.message(), HasSubstr("codebook version 2: this shard has version 3"));
  EXPECT_THAT(status.message(), HasSubstr("shard 0 at " + served.endpoints()[0]));
}

TEST(RemoteStore, OtherTablesThanTheServersAreRefused) {
  ServedStore served(OneTable());
  RemoteStoreOptions options = served.ClientOptions();
  options.tables = {AlignSpec("t", 8), AlignSpec("u", 4)};
  const auto store = served.Connect(options);
  EXPECT_TRUE(absl::IsInvalidArgument(PushRows(*store, 0, 0, Keys(0, 1), std::vector<float>(8))));
  EXPECT_TRUE(absl::IsInvalidArgument(PushRows(*store, 0, 1, Keys(0, 1), std::vector<float>(4))));
  EXPECT_TRUE(absl::IsDataLoss(store->Stats(Soon()).status()));  // of one table
}

TEST(RemoteStore, AStrangersKeyGetsNowhere) {
  ServedStore served(OneTable(1, Network::kCurve));
  RemoteStoreOptions options = served.ClientOptions();
  options.security.keys = CurveKeys::Make();
  const auto store = served.Connect(options);
  EXPECT_TRUE(absl::IsDeadlineExceeded(store->Stats(DeadlineIn(milliseconds(300))).status()));
  EXPECT_TRUE(served.Connect()->Stats(Soon()).ok());
}

TEST(RemoteStore, SeveralCallsAreInFlightAndFinishInAnyOrder) {
  for (const uint32_t shards : {1u, 3u}) {
    ServedStore served(OneTable(shards));
    const auto store = served.Connect();
    ASSERT_TRUE(PushRows(*store, 0, 0, Keys(0, 100), std::vector<float>(400, -3)).ok());
    std::vector<std::vector<uint64_t>> keys;
    std::vector<std::vector<float>> rows(5, std::vector<float>(80, -1));
    std::vector<Ticket> tickets;
    for (uint64_t i = 0; i < 5; ++i) {
      keys.push_back(Keys(20 * i, 20 * i + 20));
      const TablePull pull{.table = 0, .keys = keys[i], .rows = rows[i]};
      tickets.push_back(*store->StartPull(kAnyStep, {&pull, 1}, Soon()));
    }
    for (const size_t i : {3u, 0u, 4u, 2u, 1u}) {
      EXPECT_TRUE(store->Finish(tickets[i]).ok());
      EXPECT_EQ(rows[i], std::vector<float>(80, 3));
    }
    EXPECT_TRUE(absl::IsInvalidArgument(store->Finish(tickets[0])));
    EXPECT_TRUE(absl::IsInvalidArgument(store->Finish({12345})));
  }
}

TEST(RemoteStore, ThePushedSpansAreNotNeededAfterStart) {
  ServedStore served(OneTable());
  const auto store = served.Connect();
  const auto keys = Keys(0, 50);
  Ticket ticket;
  {
    const BusyShard busy(&served.local());
    auto own_keys = std::make_unique<std::vector<uint64_t>>(keys);
    auto grads = std::make_unique<std::vector<float>>(200, -1.0f);
    const TablePush push{.table = 0, .keys = *own_keys, .grads = *grads};
    ticket = *store->StartPush(0, {&push, 1}, Soon());
  }
  EXPECT_TRUE(store->Finish(ticket).ok());
  EXPECT_EQ(PullRows(*store, 0, keys).rows, std::vector<float>(200, 1));
}

TEST(RemoteStore, BeyondTheBoundACallWaitsForRoom) {
  ServedStore served(OneTable());
  RemoteStoreOptions options = served.ClientOptions();
  options.max_in_flight = 2;
  const auto store = served.Connect(options);
  const std::vector<uint64_t> keys = Keys(0, 10);
  const std::vector<float> grads(40, -1);
  const TablePush push{.table = 0, .keys = keys, .grads = grads};
  std::vector<Ticket> tickets;
  {
    const BusyShard busy(&served.local());
    for (int i = 0; i < 2; ++i) tickets.push_back(*store->StartPush(0, {&push, 1}, Soon()));
    const absl::Status full =
        store->StartPush(0, {&push, 1}, DeadlineIn(milliseconds(50))).status();
    EXPECT_TRUE(absl::IsDeadlineExceeded(full)) << full;
    EXPECT_THAT(full.message(), HasSubstr("unanswered"));
  }
  // Waits for one of the two, then goes.
  tickets.push_back(*store->StartPush(0, {&push, 1}, Soon()));
  for (const Ticket ticket : tickets) EXPECT_TRUE(store->Finish(ticket).ok());
  EXPECT_EQ(PullRows(*store, 0, keys).updates, std::vector<uint32_t>(10, 3));
}

TEST(RemoteStore, ATimedOutCallNeverTouchesItsSpansAgain) {
  ServedStore served(OneTable());
  const auto store = served.Connect();
  ASSERT_TRUE(PushRows(*store, 0, 0, Keys(0, 100), std::vector<float>(400, 1.0f)).ok());
  {
    const BusyShard busy(&served.local());
    auto keys = std::make_unique<std::vector<uint64_t>>(Keys(0, 100));
    auto rows = std::make_unique<std::vector<float>>(400, 5.0f);
    const TablePull pull{.table = 0, .keys = *keys, .rows = *rows};
    EXPECT_TRUE(absl::IsDeadlineExceeded(store->Pull({&pull, 1}, DeadlineIn(milliseconds(50)))));
    EXPECT_EQ(*rows, std::vector<float>(400, 5.0f));
    keys.reset();  // the late reply would use freed memory: asan and tsan would tell
    rows.reset();
  }
  EXPECT_EQ(PullRows(*store, 0, Keys(0, 1)).rows, std::vector<float>(4, -1));
}

TEST(RemoteStore, CallersTakeTurnsUpToTheirDeadlines) {
  ServedStore served(OneTable());
  const auto store = served.Connect();
  auto busy = std::make_unique<BusyShard>(&served.local());
  std::thread first([&] { EXPECT_TRUE(store->Stats(Soon()).ok()); });
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_TRUE(absl::IsDeadlineExceeded(store->Stats(DeadlineIn(milliseconds(50))).status()));
  EXPECT_TRUE(HintRows(*store, 0, Keys(0, 10)).ok());  // does not wait
  EXPECT_TRUE(store->CancelHints(0).ok());
  busy.reset();
  first.join();
  EXPECT_TRUE(store->Stats(Soon()).ok());
}

TEST(RemoteStore, SixteenBitValuesAreRoundedOnTheWireOnly) {
  ServedStore served(OneTable());
  const std::vector<uint64_t> keys = Keys(0, 30);
  Random random(1);
  const std::vector<float> grads = RandomFloats(120, &random);
  for (const ValueDtype dtype : {ValueDtype::kFloat16, ValueDtype::kBfloat16}) {
    const auto rounded = [&](float x) {
      return dtype == ValueDtype::kFloat16 ? FloatOfHalf(HalfOf(x)) : FloatOfBfloat(BfloatOf(x));
    };
    RemoteStoreOptions options = served.ClientOptions();
    options.wire_dtype = dtype;
    const auto store = served.Connect(options);
    const std::vector<float> before = PullRows(served.local(), 0, keys).rows;
    ASSERT_TRUE(PushRows(*store, 0, 0, keys, grads).ok());
    const std::vector<float> after = PullRows(served.local(), 0, keys).rows;
    const std::vector<float> pulled = PullRows(*store, 0, keys).rows;
    for (size_t i = 0; i < grads.size(); ++i) {
      EXPECT_EQ(after[i], before[i] - rounded(grads[i]));
      EXPECT_EQ(pulled[i], rounded(after[i]));
    }
  }
}

TEST(RemoteStore, BytesAreCountedAndHalfPrecisionHalvesThoseOfValues) {
  constexpr uint64_t kRows = 1000, kDim = 64;
  const auto moved = [](ValueDtype dtype) {
    ServedStore served({.tables = {AlignSpec("t", kDim, Optimizer(OptimizerKind::kSgd, 1))}});
    RemoteStoreOptions options = served.ClientOptions();
    options.wire_dtype = dtype;
    const auto store = served.Connect(options);
    const NetworkStats before = store->Stats(Soon())->network;
    PushRows(*store, 0, 0, Keys(0, kRows), std::vector<float>(kRows * kDim, 1.0f)).IgnoreError();
    PullRows(*store, 0, Keys(0, kRows));
    const NetworkStats after = store->Stats(Soon())->network;
    return NetworkStats{after.bytes_sent - before.bytes_sent,
                        after.bytes_received - before.bytes_received};
  };
  // Beside headers: keys both times, and the number of updates with a pulled row.
  constexpr uint64_t kHeaders = 1000, kValues = kRows * kDim * 4;
  for (const auto& [dtype, values] :
       {std::pair{ValueDtype::kFloat32, kValues}, std::pair{ValueDtype::kBfloat16, kValues / 2}}) {
    const NetworkStats bytes = moved(dtype);
    EXPECT_GE(bytes.bytes_sent, values + 2 * kRows * 8);
    EXPECT_LE(bytes.bytes_sent, values + 2 * kRows * 8 + kHeaders);
    EXPECT_GE(bytes.bytes_received, values + kRows * 4);
    EXPECT_LE(bytes.bytes_received, values + kRows * 4 + kHeaders);
  }
}

TEST(RemoteStore, GradientsBeyondTheWiresRangeAreRefusedByTheShard) {
  ServedStore served(OneTable());
  RemoteStoreOptions options = served.ClientOptions();
  options.wire_dtype = ValueDtype::kFloat16;
  const absl::Status status =
      PushRows(*served.Connect(options), 0, 0, Keys(3, 4), std::vector<float>(4, 1e6f));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("table t, key 3"));
}

TEST(RemoteStore, ThousandsOfTablePartsInOneCallWork) {
  ServedStore served(OneTable());
  const auto store = served.Connect();
  const std::vector<uint64_t> keys = Keys(0, 5000);
  ASSERT_TRUE(PushRows(*store, 0, 0, keys, std::vector<float>(20'000, -1)).ok());
  std::vector<float> rows(20'000);
  std::vector<TablePull> pulls;
  for (size_t i = 0; i < keys.size(); ++i) {
    pulls.push_back({.table = 0,
                     .keys = std::span(keys).subspan(i, 1),
                     .rows = std::span(rows).subspan(4 * i, 4)});
  }
  ASSERT_TRUE(store->Pull(pulls, Soon()).ok());
  EXPECT_EQ(rows, std::vector<float>(20'000, 1));
}

TEST(RemoteStore, APushOfMoreMessagesThanItsHeadersCanCountIsRefused) {
  constexpr uint32_t kDim = 512;
  ServedStore served({.tables = {AlignSpec("t", kDim, Optimizer(OptimizerKind::kSgd, 1))}});
  RemoteStoreOptions options = served.ClientOptions();
  options.message_bytes = 4096;  // a message takes one row
  const auto store = served.Connect(options);
  const std::vector<uint64_t> keys = Keys(0, 65536);
  const std::vector<float> grads(keys.size() * kDim);
  const absl::Status status = PushRows(*store, 0, 0, keys, grads);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("65536 messages"));
}

// A network that loses, doubles, delays and reorders in both directions, with several calls in
// flight: sums are exact.
// Row dup_reorder_drop_delay of docs/reliability.md.
TEST(RemoteStore, EveryPushIsAppliedOnceWhateverTheNetworkDoes) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(seed);
    ServedStore served(OneTable());
    LossyProxy proxy(&served.context(), served.endpoints()[0], seed);
    RemoteStoreOptions options = served.ClientOptions();
    options.endpoints = {proxy.endpoint()};
    options.retry_after = milliseconds(10);
    options.max_in_flight = 16;
    const auto store = served.Connect(options);
    constexpr int kPushes = 500;
    const std::vector<uint64_t> keys = Keys(0, 20);
    std::vector<float> grads(80, -1);
    const TablePush push{.table = 0, .keys = keys, .grads = grads};
    std::vector<Ticket> tickets;
    for (int i = 0; i < kPushes; ++i) {
      const auto ticket = store->StartPush(i, {&push, 1}, Soon());
      ASSERT_TRUE(ticket.ok()) << ticket.status();
      tickets.push_back(*ticket);
      if (i % 10 == 0) PullRows(*store, 0, keys);
    }
    for (const Ticket ticket : tickets) {
      const absl::Status status = store->Finish(ticket);
      ASSERT_TRUE(status.ok()) << status;
    }
    const Pulled pulled = PullRows(*store, 0, keys);
    EXPECT_EQ(pulled.updates, std::vector<uint32_t>(20, kPushes));
    EXPECT_EQ(pulled.rows, std::vector<float>(80, kPushes));
    const bool exact = pulled.rows == std::vector<float>(80, kPushes);
    // Not through the proxy.
    const auto stats = served.Connect()->Stats(Soon());
    ASSERT_TRUE(stats.ok()) << stats.status();
    for (const int count : {proxy.lost(), proxy.doubled(), proxy.delayed(), proxy.reordered()}) {
      EXPECT_GT(count, 10);
    }
    EXPECT_GT(stats->steps.repeated, 10u);
    PrintFigure(
        "dup_reorder_drop_delay",
        absl::StrCat(kPushes, " pushes, ", proxy.lost(), " messages lost, ", proxy.doubled(),
                     " doubled, ", proxy.reordered(), " reordered, ", proxy.delayed(), " delayed; ",
                     stats->steps.repeated, " repeated requests recognised; sums ",
                     exact ? "exact" : "WRONG", " (seed ", seed, ")"));
  }
}

}  // namespace
}  // namespace savior
