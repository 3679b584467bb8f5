// LocalStore used by several threads at once, with so little RAM that rows come and go all the
// time: no row is ever torn, late or lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "ps/local_store.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/naive_store.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

// Counters: with SGD of rate 1 and gradients of -1 every weight is the number of updates.
constexpr uint32_t kCounters = 2;
constexpr uint32_t kPushers = 2;
constexpr uint64_t kKeys = 12'000;

std::vector<TableSpec> Tables() {
  return {AlignSpec("narrow_counter", 4, Optimizer(OptimizerKind::kSgd, 1)),
          AlignSpec("wide_counter", 64, Optimizer(OptimizerKind::kSgd, 1)),
          IdTable("adagrad", 8, Optimizer(OptimizerKind::kAdagrad)),
          IdTable("rowwise", 16, Optimizer(OptimizerKind::kRowwiseAdagrad)),
          IdTable("adam", 4, Optimizer(OptimizerKind::kAdam))};
}

// Which table is in use most changes all the time, so that the limits swing.
uint32_t TableAt(int64_t step, size_t tables, Random* random) {
  if (random->Below(4) == 0) return static_cast<uint32_t>(random->Below(tables));
  return static_cast<uint32_t>(static_cast<size_t>(step / 40) % tables);
}

// Unique keys with key % stride == offset, in no order.
std::vector<uint64_t> SomeKeys(uint64_t stride, uint64_t offset, Random* random) {
  const uint64_t n = 1 + random->Below(random->Below(6) == 0 ? 900 : 120);
  uint64_t key = random->Below(kKeys / stride);
  std::vector<uint64_t> keys;
  for (uint64_t i = 0; i < n; ++i, key += 1 + random->Below(3)) {
    keys.push_back(key % kKeys * stride + offset);
  }
  std::ranges::sort(keys);
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  for (size_t i = keys.size(); i > 1; --i) std::swap(keys[i - 1], keys[random->Below(i)]);
  return keys;
}

struct Recorded {
  int64_t step;
  uint32_t table;
  std::vector<uint64_t> keys;
  std::vector<float> grads;
};

class Threads {
 public:
  Threads(uint64_t seed, uint32_t shards, uint64_t budget)
      : seed_(seed),
        store_(*LocalStore::Open({.tables = tables_,
                                  .shards = shards,
                                  .ram_budget_bytes = budget,
                                  .folder = folder_.path(),
                                  .seed = seed})) {}

  void Run(int64_t steps) {
    std::vector<std::thread> threads;
    threads.reserve(kPushers + 2);
    for (uint32_t p = 0; p < kPushers; ++p) threads.emplace_back([=, this] { Push(p, steps); });
    threads.emplace_back([this] { HintAndPull(); });
    threads.emplace_back([this] { PullAll(); });
    for (uint32_t p = 0; p < kPushers; ++p) threads[p].join();
    stop_ = true;
    for (uint32_t p = kPushers; p < threads.size(); ++p) threads[p].join();
    Compare();
  }

 private:
  // Keys of counters are everybody's, those of other tables this pusher's.
  void Push(uint32_t pusher, int64_t steps) {
    Random random(seed_, 100 + pusher);
    for (int64_t step = 1; step <= steps; ++step) {
      const uint32_t table = TableAt(step, tables_.size(), &random);
      const uint32_t dim = tables_[table].dim;
      const bool counter = table < kCounters;
      std::vector<uint64_t> keys = SomeKeys(counter ? 1 : kPushers, counter ? 0 : pusher, &random);
      std::vector<float> grads = counter ? std::vector<float>(keys.size() * dim, -1.0f)
                                         : RandomFloats(keys.size() * dim, &random);
      newest_ = std::max<int64_t>(newest_, step);
      const absl::Status status = PushRows(*store_, step, table, keys, grads);
      ASSERT_TRUE(status.ok()) << status;
      if (counter) {
        for (const uint64_t key : keys) pushed_[table][key].fetch_add(1);
      } else {
        recorded_[pusher].push_back({step, table, std::move(keys), std::move(grads)});
      }
    }
  }

  void HintAndPull() {
    Random random(seed_, 1);
    std::vector<std::pair<uint32_t, std::vector<uint64_t>>> ahead;
    while (!stop_) {
      const auto table = static_cast<uint32_t>(random.Below(tables_.size()));
      std::vector<uint64_t> keys = SomeKeys(1, 0, &random);
      const TableKeys hint{.table = table, .keys = keys};
      const int64_t step = newest_ + static_cast<int64_t>(random.Below(5)) - 1;
      ASSERT_TRUE(store_->Hint(step, {&hint, 1}).ok());
      ahead.emplace_back(table, std::move(keys));
      if (random.Below(6) == 0) {
        ASSERT_TRUE(store_->CancelHints(newest_ + static_cast<int64_t>(random.Below(4)) - 1).ok());
      }
      if (ahead.size() < 8) continue;
      for (const auto& [t, hinted] : ahead) CheckPull(t, hinted);
      ahead.clear();
    }
  }

  void PullAll() {
    Random random(seed_, 2);
    while (!stop_) {
      CheckPull(static_cast<uint32_t>(random.Below(tables_.size())), SomeKeys(1, 0, &random));
      if (random.Below(20) == 0) {
        ASSERT_TRUE(store_->Stats(Soon()).ok());
      }
    }
  }

  // Rows of counters are whole, and have every push that was acknowledged before.
  void CheckPull(uint32_t table, const std::vector<uint64_t>& keys) {
    std::vector<uint32_t> least;
    for (const uint64_t key : keys) {
      least.push_back(table < kCounters ? pushed_[table][key].load() : 0);
    }
    const Pulled pulled = PullRows(*store_, table, keys);
    if (table >= kCounters) return;
    const uint32_t dim = tables_[table].dim;
    for (size_t i = 0; i < keys.size(); ++i) {
      ASSERT_GE(pulled.updates[i], least[i]) << tables_[table].name << ", key " << keys[i];
      for (uint32_t d = 0; d < dim; ++d) {
        ASSERT_EQ(pulled.rows[i * dim + d], static_cast<float>(pulled.updates[i]))
            << tables_[table].name << ", key " << keys[i];
      }
    }
  }

  void Compare() {
    NaiveStore naive(tables_, seed_);
    for (const std::vector<Recorded>& pushes : recorded_) {
      for (const Recorded& push : pushes) {
        const uint32_t dim = tables_[push.table].dim;
        for (size_t i = 0; i < push.keys.size(); ++i) {
          naive.Push(push.step, push.table, push.keys[i], push.grads.data() + i * dim);
        }
      }
    }
    for (uint32_t t = 0; t < tables_.size(); ++t) {
      const auto before = store_->Stats(Soon())->tables;
      size_t rows = 0;
      const absl::Status status = store_->ForEachRow(
          t,
          [&](const StoredRow& row) {
            ++rows;
            if (t < kCounters) {
              EXPECT_EQ(row.updates, pushed_[t][row.key].load());
              for (const float weight : row.weights) {
                EXPECT_EQ(weight, static_cast<float>(row.updates));
              }
            } else {
              EXPECT_TRUE(NaiveStore::Row::Of(row) == naive.Read(t, row.key)) << "key " << row.key;
            }
            return absl::OkStatus();
          },
          Soon());
      EXPECT_TRUE(status.ok()) << status;
      size_t expected = naive.Count(t);
      if (t < kCounters) {
        expected = static_cast<size_t>(
            std::ranges::count_if(pushed_[t], [](const auto& n) { return n.load() > 0; }));
      }
      EXPECT_EQ(rows, expected) << tables_[t].name;
      EXPECT_EQ(before[t].rows, expected) << tables_[t].name;
      EXPECT_LE(before[t].hot_rows, before[t].rows);
    }
  }

  const uint64_t seed_;
  const std::vector<TableSpec> tables_ = Tables();
  const TempFolder folder_;
  const std::unique_ptr<LocalStore> store_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> newest_{0};
  // Pushes acknowledged, [counter][key].
  std::vector<std::vector<std::atomic<uint32_t>>> pushed_{[] {
    std::vector<std::vector<std::atomic<uint32_t>>> counts;
    for (uint32_t t = 0; t < kCounters; ++t) counts.emplace_back(kKeys * kPushers + kPushers);
    return counts;
  }()};
  std::vector<std::vector<Recorded>> recorded_{kPushers};
};

uint64_t TestSeed() {
  const char* const given = std::getenv("SAVIOR_TEST_SEED");
  if (given != nullptr) return std::strtoull(given, nullptr, 10);
  return static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) %
         1'000'000;
}

TEST(StoreThreads, RowsAreNeverTornLateOrLost) {
  const uint64_t seed = TestSeed();
  std::cout << "SAVIOR_TEST_SEED=" << seed << std::endl;
  SCOPED_TRACE(testing::Message() << "SAVIOR_TEST_SEED=" << seed);
  for (const uint32_t shards : {1u, 2u}) {
    // The least, and some percent of the 4 MB of rows.
    for (const uint64_t budget : {uint64_t{0}, uint64_t{150'000}, uint64_t{1'500'000}}) {
      SCOPED_TRACE(testing::Message() << shards << " shards, budget " << budget);
      Threads threads(seed, shards, budget);
      threads.Run(400);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace savior
