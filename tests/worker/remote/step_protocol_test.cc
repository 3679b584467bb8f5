// Several workers, each with its own client, over one served store that keeps a clock of steps.

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "tests/faults/figure.h"
#include "tests/worker/remote/lossy_proxy.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kDim = 8;

std::vector<TableSpec> Tables() {
  return {IdTable("id", kDim, Optimizer(OptimizerKind::kAdam, 0.1f)),
          AlignSpec("align", kDim, Optimizer(OptimizerKind::kAdagrad, 0.1f))};
}

// What worker `worker` pushes at `step`: keys that overlap with the others', in its own order.
struct WorkerPush {
  WorkerPush(uint32_t worker, int64_t step) {
    Random random(worker, static_cast<uint64_t>(step));
    for (uint64_t key = 0; key < 60; ++key) {
      if (random.Below(3) != 0) keys.push_back(key * 7 + random.Below(2));
    }
    if (worker % 2 == 1) std::reverse(keys.begin(), keys.end());
    grads = RandomFloats(keys.size() * kDim, &random);
  }
  std::vector<TablePush> pushes() const { return {{0, keys, grads}, {1, keys, grads}}; }

  std::vector<uint64_t> keys;
  std::vector<float> grads;
};

// Trains `steps` steps: pull, push, from each worker's thread.
void Work(RemoteStore* store, uint32_t worker, int64_t first, int64_t last, int sleep_ms = 0) {
  for (int64_t step = first; step < last; ++step) {
    const WorkerPush push(worker, step);
    std::vector<float> rows(push.keys.size() * kDim);
    const TablePull pull{.table = 0, .keys = push.keys, .rows = rows};
    const auto pulled = store->StartPull(step, {&pull, 1}, Soon());
    ASSERT_TRUE(pulled.ok()) << pulled.status();
    const absl::Status status = store->Finish(*pulled);
    ASSERT_TRUE(status.ok()) << status;
    std::this_thread::sleep_for(std::chrono::milliseconds(sleep_ms));
    const absl::Status pushed = store->Push(step, push.pushes(), Soon());
    ASSERT_TRUE(pushed.ok()) << pushed;
  }
}

class StepProtocolTest : public testing::Test {
 protected:
  void Serve(uint32_t shards, const StepRules& rules) {
    served_ = std::make_unique<ServedStore>(
        ServedOptions{.tables = tables_, .shards = shards, .steps = rules, .steps_per_minute = 5});
  }
  std::unique_ptr<RemoteStore> Worker(uint32_t worker, size_t message_bytes = size_t{4} << 20) {
    RemoteStoreOptions options = served_->ClientOptions();
    options.worker = static_cast<uint16_t>(worker);
    options.message_bytes = message_bytes;
    return served_->Connect(options);
  }
  // Rows of both tables after `workers` workers have done `steps` steps.
  std::vector<Pulled> RowsAfter(uint32_t shards, uint32_t workers, int64_t steps,
                                size_t message_bytes = size_t{4} << 20) {
    Serve(shards, {.workers = workers});
    std::vector<std::unique_ptr<RemoteStore>> stores;
    std::vector<std::thread> threads;
    for (uint32_t w = 0; w < workers; ++w) stores.push_back(Worker(w, message_bytes));
    for (uint32_t w = 0; w < workers; ++w) {
      threads.emplace_back([&, w] { Work(stores[w].get(), w, 0, steps); });
    }
    for (std::thread& thread : threads) thread.join();
    const std::vector<uint64_t> all = Keys(0, 430);
    return {PullRows(*stores[0], 0, all), PullRows(*stores[0], 1, all)};
  }

  std::vector<TableSpec> tables_ = Tables();
  std::unique_ptr<ServedStore> served_;
};

TEST_F(StepProtocolTest, SynchronousRowsDoNotDependOnShardsMessagesOrTiming) {
  const std::vector<Pulled> rows = RowsAfter(1, 3, 30);
  EXPECT_EQ(RowsAfter(1, 3, 30), rows);
  EXPECT_EQ(RowsAfter(2, 3, 30), rows);
  EXPECT_EQ(RowsAfter(5, 3, 30), rows);
  // 4 KiB messages: a push is several of them.
  EXPECT_EQ(RowsAfter(2, 3, 30, 4096), rows);
}

TEST_F(StepProtocolTest, SynchronousPushesAreSummedInTheOrderOfWorkers) {
  const std::vector<Pulled> rows = RowsAfter(2, 3, 10);
  // The same sums, pushed by one.
  auto local = ServedStore({.tables = Tables()});
  for (int64_t step = 0; step < 10; ++step) {
    std::vector<uint64_t> keys;
    std::vector<float> sums;
    for (uint32_t w = 0; w < 3; ++w) {
      const WorkerPush push(w, step);
      for (size_t i = 0; i < push.keys.size(); ++i) {
        const auto found = std::ranges::find(keys, push.keys[i]);
        const float* const grad = push.grads.data() + i * kDim;
        if (found == keys.end()) {
          keys.push_back(push.keys[i]);
          sums.insert(sums.end(), grad, grad + kDim);
          continue;
        }
        float* const sum = sums.data() + (found - keys.begin()) * kDim;
        for (uint32_t d = 0; d < kDim; ++d) sum[d] += grad[d];
      }
    }
    ASSERT_TRUE(PushRows(local.local(), step, 0, keys, sums).ok());
    ASSERT_TRUE(PushRows(local.local(), step, 1, keys, sums).ok());
  }
  EXPECT_EQ(PullRows(local.local(), 0, Keys(0, 430)), rows[0]);
  EXPECT_EQ(PullRows(local.local(), 1, Keys(0, 430)), rows[1]);
}

// A step counts as one push of a key, whoever has it; and every shard hears of every step. With a
// share of all rows a minute it is not who decides (ps/eviction.h) that matters.
TEST_F(StepProtocolTest, AdmissionAndEvictionDoNotDependOnShardsOrTiming) {
  for (TableSpec& table : tables_) {
    table.admission = {.kind = AdmissionKind::kCount, .count = 3};
    table.eviction = {.idle_steps = 2, .max_share_per_minute = 1.0f};
  }
  for (const uint32_t workers : {1u, 2u, 3u}) {
    SCOPED_TRACE(workers);
    const std::vector<Pulled> rows = RowsAfter(1, workers, 40);
    EXPECT_EQ(RowsAfter(1, workers, 40), rows);
    EXPECT_EQ(RowsAfter(2, workers, 40), rows);
    EXPECT_EQ(RowsAfter(5, workers, 40, 4096), rows);
    const auto stats = Worker(0)->Stats(Soon());
    ASSERT_TRUE(stats.ok()) << stats.status();
    for (const TableStats& table : stats->tables) {
      EXPECT_GT(table.refused, 0u);
      EXPECT_GT(table.evicted, 0u);
      EXPECT_GT(table.rows, 0u);
    }
  }
}

// Row slow_worker of docs/reliability.md.
TEST_F(StepProtocolTest, StalenessIsBoundedWithASlowWorkerAndIsReported) {
  for (const int64_t staleness : {0, 1, 4}) {
    SCOPED_TRACE(staleness);
    Serve(2, {.workers = 2, .staleness = staleness});
    const auto fast = Worker(0), slow = Worker(1);
    std::thread thread([&] { Work(slow.get(), 1, 0, 40, 5); });
    Work(fast.get(), 0, 0, 40, 1);
    thread.join();
    const auto stats = fast->Stats(Soon());
    ASSERT_TRUE(stats.ok());
    EXPECT_LE(stats->steps.max_staleness, static_cast<uint64_t>(staleness));
    EXPECT_GE(stats->steps.max_staleness, staleness > 0 ? 1u : 0u);
    EXPECT_GT(stats->steps.pulls_held, 0u);
    EXPECT_EQ(stats->steps.steps, 40u);
    EXPECT_EQ(stats->steps.pulls, 2u * 2 * 40);
    PrintFigure(
        "slow_worker",
        absl::StrCat("staleness ", staleness, ": at most ", stats->steps.max_staleness, " seen, ",
                     stats->steps.pulls_held, " of ", stats->steps.pulls, " pulls waited"));
  }
}

TEST_F(StepProtocolTest, APullOfALaterStepEndsAtItsDeadlineAndIsServedAfterThePush) {
  Serve(1, {.workers = 2});
  const auto one = Worker(0), other = Worker(1);
  Work(one.get(), 0, 0, 1);
  std::vector<float> rows(kDim);
  const uint64_t key = 3;
  const TablePull pull{.table = 0, .keys = {&key, 1}, .rows = rows};
  auto ticket = one->StartPull(1, {&pull, 1}, DeadlineIn(std::chrono::milliseconds(100)));
  ASSERT_TRUE(ticket.ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(one->Finish(*ticket)));
  ticket = one->StartPull(1, {&pull, 1}, Soon());
  ASSERT_TRUE(ticket.ok());
  // Of no step: served at once.
  EXPECT_TRUE(one->Pull({&pull, 1}, Soon()).ok());
  Work(other.get(), 1, 0, 1);
  EXPECT_TRUE(one->Finish(*ticket).ok());
}

// Room for one pull of 50 keys to wait, but not for two.
TEST_F(StepProtocolTest, TooManyBytesThatWaitAreRefusedAndAskedForAgain) {
  served_ = std::make_unique<ServedStore>(
      ServedOptions{.tables = tables_, .steps = StepRules{.workers = 2}, .max_waiting_bytes = 700});
  const auto one = Worker(0), other = Worker(1);
  const std::vector<uint64_t> keys = Keys(0, 50);
  const auto start = [&](int64_t step, std::vector<float>* rows, Deadline deadline) {
    rows->assign(keys.size() * kDim, 0);
    const TablePull pull{.table = 0, .keys = keys, .rows = *rows};
    const auto ticket = one->StartPull(step, {&pull, 1}, deadline);
    EXPECT_TRUE(ticket.ok()) << ticket.status();
    return *ticket;
  };
  constexpr std::chrono::milliseconds kShortly{100};
  for (int64_t step = 0; step < 3; ++step) {
    SCOPED_TRACE(step);
    std::vector<float> unused, rows;
    // Waits, and is waited for no longer than this. There is room again in every step.
    EXPECT_TRUE(
        absl::IsDeadlineExceeded(one->Finish(start(step + 1, &unused, DeadlineIn(kShortly)))));
    absl::Status refused;
    // As long as the refusal takes on a busy machine.
    for (auto wait = kShortly; wait < 500 * kShortly; wait *= 2) {
      refused = one->Finish(start(step + 1, &unused, DeadlineIn(wait)));
      if (!absl::IsDeadlineExceeded(refused)) break;
    }
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    EXPECT_THAT(refused.message(), HasSubstr("bytes wait for worker 0 to push step"));
    const Ticket again = start(step + 1, &rows, Soon());
    // What is due is served however much waits: the step's own pulls and pushes.
    Work(one.get(), 0, step, step + 1);
    Work(other.get(), 1, step, step + 1);
    const absl::Status served = one->Finish(again);
    ASSERT_TRUE(served.ok()) << served;
    EXPECT_EQ(rows, PullRows(*other, 0, keys).rows);
  }
}

// A worker without data pulls and pushes nothing at all, counts all the same, and may be early.
TEST_F(StepProtocolTest, EmptyPushesAreTicksOfTheClock) {
  Serve(3, {.workers = 2});
  const auto one = Worker(0), idle = Worker(1);
  std::thread thread([&] {
    for (int64_t step = 0; step < 5; ++step) {
      const absl::Status pushed = idle->Push(step, {}, Soon());
      ASSERT_TRUE(pushed.ok()) << pushed;
    }
  });
  Work(one.get(), 0, 0, 5);
  thread.join();
  EXPECT_EQ(one->Stats(Soon())->steps.steps, 5u);
}

TEST_F(StepProtocolTest, RefusesPushesOutOfTurn) {
  Serve(1, {.workers = 2, .first_step = 7});
  const auto worker = Worker(0), nobody = Worker(9);
  EXPECT_TRUE(absl::IsFailedPrecondition(worker->Push(6, {}, Soon())));
  EXPECT_TRUE(worker->Push(7, {}, Soon()).ok());
  const absl::Status twice = worker->Push(7, {}, Soon());
  EXPECT_TRUE(absl::IsFailedPrecondition(twice)) << twice;
  EXPECT_THAT(twice.message(), HasSubstr("step 7"));
  const absl::Status unknown = nobody->Push(7, {}, Soon());
  EXPECT_TRUE(absl::IsInvalidArgument(unknown)) << unknown;
  EXPECT_THAT(unknown.message(), HasSubstr("2 workers"));
}

// Lost, doubled and reordered messages change no bit.
TEST_F(StepProtocolTest, ALossyNetworkChangesNoRow) {
  const std::vector<Pulled> rows = RowsAfter(2, 2, 25, 4096);
  Serve(2, {.workers = 2});
  std::vector<std::unique_ptr<LossyProxy>> proxies;
  std::vector<std::unique_ptr<RemoteStore>> stores;
  for (uint32_t w = 0; w < 2; ++w) {
    RemoteStoreOptions options = served_->ClientOptions();
    options.worker = static_cast<uint16_t>(w);
    options.message_bytes = 4096;
    options.retry_after = std::chrono::milliseconds(20);
    for (std::string& endpoint : options.endpoints) {
      proxies.push_back(
          std::make_unique<LossyProxy>(&served_->context(), endpoint, proxies.size()));
      endpoint = proxies.back()->endpoint();
    }
    stores.push_back(served_->Connect(options));
  }
  std::thread thread([&] { Work(stores[1].get(), 1, 0, 25); });
  Work(stores[0].get(), 0, 0, 25);
  thread.join();
  int lost = 0;
  for (const auto& proxy : proxies) lost += proxy->lost();
  EXPECT_GT(lost, 0);
  const auto reader = Worker(0);
  EXPECT_EQ(PullRows(*reader, 0, Keys(0, 430)), rows[0]);
  EXPECT_EQ(PullRows(*reader, 1, Keys(0, 430)), rows[1]);
  stores.clear();
}

TEST_F(StepProtocolTest, ACheckpointWaitsForItsStepAndIsWrittenOnce) {
  Serve(2, {.workers = 2});
  const auto one = Worker(0), other = Worker(1);
  Work(one.get(), 0, 0, 1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(one->Freeze(1, DeadlineIn(std::chrono::milliseconds(100)))));
  EXPECT_TRUE(absl::IsFailedPrecondition(AwaitCheckpoint(*one, 1)));  // none was begun
  Work(other.get(), 1, 0, 1);
  // Now the former request is served too: either it began the checkpoint, or this one does.
  const absl::Status frozen = other->Freeze(1, Soon());
  EXPECT_TRUE(frozen.ok() || absl::IsFailedPrecondition(frozen)) << frozen;
  const absl::Status written = AwaitCheckpoint(*other, 1);
  EXPECT_TRUE(written.ok()) << written;
  for (const char* shard : {"shard-0", "shard-1"}) {
    EXPECT_TRUE(std::filesystem::exists(served_->Checkpoint(1) / shard / "CURRENT"));
  }
  EXPECT_TRUE(one->Freeze(1, Soon()).ok());
  EXPECT_FALSE(AwaitCheckpoint(*one, 1).ok()) << "it exists";
}

}  // namespace
}  // namespace savior
