// Nothing of the future reaches a batch: change the future in every way, and no batch before it
// changes by a bit.
#include <gtest/gtest.h>

#include <algorithm>

#include "common/random.h"
#include "tests/worker/data/raw_tables.h"
#include "worker/data/batch.h"

namespace savior {
namespace {

using testing::kDay;
using testing::kStart;

std::vector<Batch> AllBatches(const TrainingLog& log, const BatchOptions& options) {
  std::vector<Batch> batches;
  const auto reader = BatchReader::Create(&log, options);
  EXPECT_TRUE(reader.ok()) << reader.status();
  for (int64_t i = 0; i < (*reader)->num_batches(); ++i) {
    auto batch = (*reader)->Read(i);
    EXPECT_TRUE(batch.ok()) << batch.status();
    batches.push_back(*std::move(batch));
  }
  return batches;
}

// Behaviours at `moment` or later are dealt anew: user, item, kind and time. Labels and weights
// after `moment` are turned. Which values there are stays, so that numbers and codes mean the same.
testing::RawData WithAnotherFuture(testing::RawData raw, int64_t moment, uint64_t seed) {
  Random random(seed);
  std::vector<testing::RawBehaviour*> future;
  for (auto& behaviour : raw.behaviours) {
    if (behaviour.time >= moment) future.push_back(&behaviour);
  }
  for (size_t i = future.size(); i > 1; --i) {
    std::swap(future[i - 1]->user, future[random.Below(i)]->user);
    std::swap(future[i - 1]->item, future[random.Below(i)]->item);
    std::swap(future[i - 1]->kind, future[random.Below(i)]->kind);
    future[i - 1]->time = moment + static_cast<int64_t>(random.Below(9 * kDay));
  }
  for (auto& impression : raw.impressions) {
    if (impression.time <= moment) continue;
    impression.click = 1 - impression.click;
    impression.conversion = impression.click;
    impression.weight += 1;
  }
  return raw;
}

TEST(Leak, BatchesDoNotDependOnTheFuture) {
  const testing::Folder folder;
  const testing::RawData raw = testing::RandomRaw(11, 400, 6);
  const auto log = PrepareAndOpen(raw, folder, "true");
  ASSERT_NE(log, nullptr);
  // In the middle of a day, in the very second of requests and behaviours.
  const int64_t moment = kStart + 3 * kDay + 10 * 4000;
  for (const uint64_t seed : {1u, 2u, 3u}) {
    const auto other = PrepareAndOpen(WithAnotherFuture(raw, moment, seed), folder,
                                      "other" + std::to_string(seed));
    ASSERT_NE(other, nullptr);
    for (const int64_t window : {0, 50}) {
      const BatchOptions options{.period = {.from = 0, .until = moment + 1},
                                 .requests_per_batch = 16,
                                 .max_history = 20,
                                 .shuffle_window = window,
                                 .seed = 9};
      const auto expected = AllBatches(*log, options);
      ASSERT_GT(expected.size(), 5u);
      EXPECT_TRUE(AllBatches(*other, options) == expected) << "seed " << seed;
    }
    // The test would see a leak: batches of the future do change.
    const BatchOptions later{.period = {.from = moment + 1, .until = kStart + 100 * kDay}};
    EXPECT_FALSE(AllBatches(*other, later) == AllBatches(*log, later));
  }
}

TEST(Leak, HistoriesAreStrictlyBeforeTheRequest) {
  const testing::Folder folder;
  const auto log = PrepareAndOpen(testing::RandomRaw(12, 300, 5), folder);
  ASSERT_NE(log, nullptr);
  const BatchOptions all{.period = {.from = 0, .until = kStart + 100 * kDay}};
  for (const Batch& batch : AllBatches(*log, all)) {
    for (size_t r = 0; r < batch.users.size(); ++r) {
      for (auto h = batch.history_offsets[r]; h < batch.history_offsets[r + 1]; ++h) {
        EXPECT_LT(batch.history_times[static_cast<size_t>(h)], batch.timestamps[r]);
      }
    }
  }
}

}  // namespace
}  // namespace savior
