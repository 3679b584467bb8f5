#include "worker/data/batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "common/random.h"
#include "tests/worker/data/raw_tables.h"

namespace savior {
namespace {

using ::testing::ElementsAre;
using testing::Folder;
using ::testing::IsEmpty;
using testing::kDay;
using testing::kStart;
using testing::RawData;

constexpr Period kAll = {.from = 0, .until = int64_t{1} << 40};

std::unique_ptr<BatchReader> MakeReader(const TrainingLog& log, const BatchOptions& options) {
  auto reader = BatchReader::Create(&log, options);
  EXPECT_TRUE(reader.ok()) << reader.status();
  return reader.ok() ? std::move(*reader) : nullptr;
}

Batch ReadBatch(BatchReader* reader, int64_t index) {
  auto batch = reader->Read(index);
  EXPECT_TRUE(batch.ok()) << batch.status();
  return batch.ok() ? *std::move(batch) : Batch();
}

template <typename T>
int32_t NumberOf(std::span<const int64_t> ids, T id) {
  const auto found = std::lower_bound(ids.begin(), ids.end(), id);
  return static_cast<int32_t>(found - ids.begin());
}

// The law of batches in its plainest words, without days, files or offsets.
Batch NaiveBatch(const RawData& raw, const TrainingLog& log, const BatchOptions& options,
                 int64_t index) {
  std::set<std::pair<int64_t, int64_t>> requests;  // (time, request)
  for (const auto& row : raw.impressions) {
    if (row.time >= options.period.from && row.time < options.period.until) {
      requests.emplace(row.time, row.request);
    }
  }
  std::vector<std::pair<int64_t, int64_t>> order(requests.begin(), requests.end());
  const auto window = static_cast<size_t>(std::max<int64_t>(options.shuffle_window, 1));
  for (size_t begin = 0; begin < order.size(); begin += window) {
    Random random(options.seed, begin / window);
    for (size_t i = std::min(window, order.size() - begin); i > 1; --i) {
      std::swap(order[begin + i - 1], order[begin + random.Below(i)]);
    }
  }
  const auto& vocabulary = log.schema().context_features[0].vocabulary;
  const auto& kinds = log.schema().behaviour_kinds;
  Batch batch;
  batch.row_offsets = batch.history_offsets = {0};
  batch.context.resize(1);
  batch.numerics.resize(1);
  const auto from = static_cast<size_t>(index * options.requests_per_batch);
  const auto to = std::min(order.size(), from + static_cast<size_t>(options.requests_per_batch));
  for (size_t position = from; position < to; ++position) {
    const auto [time, request] = order[position];
    int64_t user = 0;
    for (const auto& row : raw.impressions) {
      if (row.request != request) continue;
      user = row.user;
      batch.items.push_back(NumberOf(log.item_ids(), row.item));
      batch.clicks.push_back(static_cast<float>(row.click));
      batch.conversions.push_back(static_cast<float>(row.conversion));
      batch.weights.push_back(row.weight);
      batch.prior_counts.push_back(static_cast<int32_t>(
          std::count_if(raw.behaviours.begin(), raw.behaviours.end(), [&](const auto& behaviour) {
            return behaviour.item == row.item && behaviour.time / kDay < row.time / kDay;
          })));
      const auto code = std::find(vocabulary.begin(), vocabulary.end(), row.channel);
      batch.context[0].push_back(static_cast<int32_t>(code - vocabulary.begin()));
      batch.numerics[0].push_back(row.hour);
    }
    std::vector<testing::RawBehaviour> history;
    for (const auto& behaviour : raw.behaviours) {
      if (behaviour.user == user && behaviour.time < time) history.push_back(behaviour);
    }
    std::stable_sort(history.begin(), history.end(),
                     [](const auto& a, const auto& b) { return a.time < b.time; });
    const auto most = static_cast<size_t>(options.max_history);
    for (size_t h = history.size() > most ? history.size() - most : 0; h < history.size(); ++h) {
      batch.history_items.push_back(NumberOf(log.item_ids(), history[h].item));
      batch.history_times.push_back(history[h].time);
      const auto kind = std::find(kinds.begin(), kinds.end(), history[h].kind);
      batch.history_kinds.push_back(static_cast<int8_t>(kind - kinds.begin()));
    }
    batch.request_ids.push_back(request);
    batch.users.push_back(NumberOf(log.user_ids(), user));
    batch.timestamps.push_back(time);
    batch.row_offsets.push_back(static_cast<int32_t>(batch.items.size()));
    batch.history_offsets.push_back(static_cast<int32_t>(batch.history_items.size()));
  }
  batch.global_requests = batch.requests();
  batch.global_rows = batch.rows();
  return batch;
}

TEST(BatchReader, EqualsTheNaiveReferenceOnRandomData) {
  const auto seed =
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  RecordProperty("seed", std::to_string(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (int round = 0; round < 6; ++round) {
    const Folder folder;
    const int days = 1 + static_cast<int>(random.Below(8));
    const RawData raw = testing::RandomRaw(random(), 1 + static_cast<int>(random.Below(80)), days);
    const auto log = PrepareAndOpen(raw, folder, "x", 1 << random.Below(16));
    ASSERT_NE(log, nullptr);
    for (int trial = 0; trial < 6; ++trial) {
      BatchOptions options{.period = kAll};
      options.requests_per_batch = 1 + static_cast<int64_t>(random.Below(40));
      options.max_history = static_cast<int64_t>(random.Below(12));
      options.shuffle_window = static_cast<int64_t>(random.Below(60));
      options.seed = random();
      if (trial % 2 == 1) {
        const auto span = static_cast<uint64_t>(days * kDay);
        options.period.from = kStart + static_cast<int64_t>(random.Below(span));
        options.period.until = options.period.from + static_cast<int64_t>(random.Below(span));
      }
      const auto reader = MakeReader(*log, options);
      ASSERT_NE(reader, nullptr);
      for (int64_t i = 0; i < reader->num_batches(); ++i) {
        // Any order of access gives the same.
        const auto index = static_cast<int64_t>(
            trial < 3 ? static_cast<uint64_t>(i)
                      : random.Below(static_cast<uint64_t>(reader->num_batches())));
        ASSERT_TRUE(ReadBatch(reader.get(), index) == NaiveBatch(raw, *log, options, index))
            << "batch " << index << " of round " << round << ", trial " << trial;
      }
    }
  }
}

TEST(BatchReader, CountsWhatItReads) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::RandomRaw(21, 150, 4), folder);
  ASSERT_NE(log, nullptr);
  const Period half_days = {.from = kStart + kDay / 2, .until = kStart + 3 * kDay - kDay / 2};
  for (const Period& period : {kAll, half_days}) {
    const auto reader = MakeReader(*log, {.period = period, .requests_per_batch = 7});
    int64_t requests = 0;
    int64_t rows = 0;
    for (int64_t i = 0; i < reader->num_batches(); ++i) {
      const Batch batch = ReadBatch(reader.get(), i);
      requests += batch.requests();
      rows += batch.rows();
    }
    EXPECT_EQ(requests, reader->num_requests());
    EXPECT_EQ(rows, reader->num_rows());
  }
}

TEST(BatchReader, ShufflesInsideWindowsOnly) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::RandomRaw(22, 200, 4), folder);
  ASSERT_NE(log, nullptr);
  const auto ids = [&](int64_t window, uint64_t seed) {
    const auto reader = MakeReader(
        *log, {.period = kAll, .requests_per_batch = 1000, .shuffle_window = window, .seed = seed});
    return ReadBatch(reader.get(), 0).request_ids;
  };
  const auto in_time = ids(0, 1);
  const auto shuffled = ids(30, 1);
  EXPECT_NE(shuffled, in_time);
  EXPECT_NE(shuffled, ids(30, 2));
  EXPECT_EQ(shuffled, ids(30, 1));
  for (size_t begin = 0; begin < in_time.size(); begin += 30) {
    const auto end = std::min(begin + 30, in_time.size());
    const auto slice = [&](const auto& all) {
      return std::multiset<int64_t>(all.begin() + static_cast<int64_t>(begin),
                                    all.begin() + static_cast<int64_t>(end));
    };
    EXPECT_EQ(slice(shuffled), slice(in_time));
  }
  EXPECT_EQ(ids(int64_t{1} << 62, 1).size(), in_time.size());
}

// Adds what `slice` holds behind what `whole` does.
void AppendSlice(const Batch& slice, Batch* whole) {
  const auto append = [](const auto& from, auto* to) {
    to->insert(to->end(), from.begin(), from.end());
  };
  const auto append_offsets = [](const auto& from, auto* to) {
    const int32_t base = to->back();
    for (size_t i = 1; i < from.size(); ++i) to->push_back(base + from[i]);
  };
  append(slice.request_ids, &whole->request_ids);
  append(slice.users, &whole->users);
  append(slice.timestamps, &whole->timestamps);
  append_offsets(slice.row_offsets, &whole->row_offsets);
  append_offsets(slice.history_offsets, &whole->history_offsets);
  append(slice.history_items, &whole->history_items);
  append(slice.history_times, &whole->history_times);
  append(slice.history_kinds, &whole->history_kinds);
  append(slice.items, &whole->items);
  append(slice.clicks, &whole->clicks);
  append(slice.conversions, &whole->conversions);
  append(slice.weights, &whole->weights);
  append(slice.prior_counts, &whole->prior_counts);
  for (size_t f = 0; f < slice.context.size(); ++f) append(slice.context[f], &whole->context[f]);
  for (size_t f = 0; f < slice.numerics.size(); ++f) append(slice.numerics[f], &whole->numerics[f]);
}

TEST(BatchReader, SlicesOfAllWorkersAreTheBatch) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::RandomRaw(23, 45, 4), folder);
  ASSERT_NE(log, nullptr);
  // Batches of 5 requests, and fewer in the last: 7 workers have more slices than requests.
  const BatchOptions options = {
      .period = kAll, .requests_per_batch = 5, .shuffle_window = 16, .seed = 3};
  const auto whole = MakeReader(*log, options);
  for (const int64_t workers : {1, 2, 3, 7}) {
    std::vector<std::unique_ptr<BatchReader>> readers;
    for (int64_t worker = 0; worker < workers; ++worker) {
      BatchOptions own = options;
      own.worker = worker;
      own.workers = workers;
      readers.push_back(MakeReader(*log, own));
      ASSERT_EQ(readers.back()->num_batches(), whole->num_batches());
      EXPECT_EQ(readers.back()->num_rows(), whole->num_rows());
    }
    for (int64_t index = 0; index < whole->num_batches(); ++index) {
      Batch joined = ReadBatch(readers[0].get(), index);
      for (size_t worker = 1; worker < readers.size(); ++worker) {
        const Batch slice = ReadBatch(readers[worker].get(), index);
        EXPECT_EQ(slice.global_requests, joined.global_requests);
        EXPECT_EQ(slice.global_rows, joined.global_rows);
        EXPECT_LE(slice.requests(), (slice.global_requests + workers - 1) / workers);
        AppendSlice(slice, &joined);
      }
      EXPECT_TRUE(joined == ReadBatch(whole.get(), index))
          << "batch " << index << ", " << workers << " workers";
    }
  }
}

// What a reader reads, batch after batch.
std::vector<Batch> AllBatches(BatchReader* reader) {
  std::vector<Batch> batches;
  for (int64_t b = 0; b < reader->num_batches(); ++b) batches.push_back(ReadBatch(reader, b));
  return batches;
}

TEST(BatchReader, WhatComesBehindACutChangesNothingBeforeIt) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::RandomRaw(29, 90, 9), folder);
  ASSERT_NE(log, nullptr);
  BatchOptions options = {.period = {kStart, kStart + 9 * kDay},
                          .requests_per_batch = 7,
                          .shuffle_window = 16,
                          .seed = 3};
  // Also in the middle of a day, and with nothing in between.
  const std::vector<int64_t> cuts = {kStart + 3 * kDay, kStart + 5 * kDay + 30'000,
                                     kStart + 5 * kDay + 30'001, kStart + 8 * kDay};
  std::set<int64_t> requests;
  for (size_t n = 0; n <= cuts.size(); ++n) {
    SCOPED_TRACE(n);
    options.cuts.assign(cuts.begin(), cuts.begin() + static_cast<std::ptrdiff_t>(n));
    options.period.until = n < cuts.size() ? cuts[n] : kStart + 9 * kDay;
    const auto shorter = MakeReader(*log, options);
    BatchOptions longer = options;
    longer.cuts.push_back(options.period.until);
    longer.period.until = kStart + 20 * kDay;
    const auto whole = MakeReader(*log, longer);
    ASSERT_GE(whole->num_batches(), shorter->num_batches());
    for (int64_t b = 0; b < shorter->num_batches(); ++b) {
      EXPECT_TRUE(ReadBatch(shorter.get(), b) == ReadBatch(whole.get(), b)) << b;
    }
  }
  const auto reader = MakeReader(*log, options);
  const std::vector<Batch> forward = AllBatches(reader.get());
  int64_t rows = 0, last = 0;
  for (const Batch& batch : forward) {
    const auto segment = [&](int64_t time) {
      return std::ranges::upper_bound(cuts, time) - cuts.begin();
    };
    for (const int64_t time : batch.timestamps) {
      EXPECT_EQ(segment(time), segment(batch.timestamps[0])) << "a batch crosses a cut";
      EXPECT_GE(segment(time), last);
      last = segment(time);
    }
    requests.insert(batch.request_ids.begin(), batch.request_ids.end());
    rows += batch.rows();
  }
  EXPECT_EQ(static_cast<int64_t>(requests.size()), reader->num_requests());
  EXPECT_EQ(rows, reader->num_rows());
  EXPECT_EQ(reader->num_requests(), 90);
  // A batch is a function of its number.
  for (size_t b = forward.size(); b-- > 0;) {
    EXPECT_TRUE(ReadBatch(reader.get(), static_cast<int64_t>(b)) == forward[b]) << b;
  }
  for (const int64_t outside : {int64_t{-1}, reader->num_batches()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(reader->Read(outside).status()));
  }
}

TEST(BatchReader, SegmentsAreNotShuffledAlike) {
  const Folder folder;
  testing::RawData raw;
  raw.items.push_back({.id = 1, .listed = kStart, .title = "", .brand = "", .price = {}});
  for (int64_t r = 0; r < 64; ++r) {  // two days with the same seconds
    raw.impressions.push_back({.request = r,
                               .user = 1,
                               .item = 1,
                               .time = kStart + r / 32 * kDay + r % 32,
                               .channel = ""});
  }
  const auto log = PrepareAndOpen(raw, folder);
  ASSERT_NE(log, nullptr);
  const auto reader = MakeReader(*log, {.period = {kStart, kStart + 2 * kDay},
                                        .requests_per_batch = 32,
                                        .shuffle_window = 32,
                                        .seed = 3,
                                        .cuts = {kStart + kDay}});
  std::vector<int64_t> first = ReadBatch(reader.get(), 0).request_ids;
  const std::vector<int64_t> second = ReadBatch(reader.get(), 1).request_ids;
  for (int64_t& id : first) id += 32;
  EXPECT_THAT(second, ::testing::UnorderedElementsAreArray(first));
  EXPECT_NE(first, second);
}

TEST(BatchReader, CutsOutsideOfThePeriodOrOutOfOrderAreRefused) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{10}, {20}, {9}, {15, 15}, {16, 15}}) {
    const auto reader = BatchReader::Create(log.get(), {.period = {10, 20}, .cuts = cuts});
    EXPECT_TRUE(absl::IsInvalidArgument(reader.status())) << reader.status();
  }
}

TEST(BatchReader, EmptyPeriodHasNoBatches) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  const int64_t noon = kStart + kDay / 2;
  for (const Period& period : {Period{5, 5}, Period{0, noon}, Period{noon + 1, kStart + kDay}}) {
    const auto reader = MakeReader(*log, {.period = period});
    EXPECT_EQ(reader->num_batches(), 0);
    EXPECT_EQ(reader->num_rows(), 0);
    EXPECT_TRUE(absl::IsInvalidArgument(reader->Read(0).status()));
  }
}

TEST(BatchReader, UsersWithoutHistoryAndLimitedHistories) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  const Batch one = ReadBatch(MakeReader(*log, {.period = kAll, .max_history = 1}).get(), 0);
  EXPECT_THAT(one.request_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(one.history_offsets, ElementsAre(0, 1, 1, 2));
  EXPECT_THAT(one.history_items, ElementsAre(2, 0));  // the most recent ones
  EXPECT_THAT(one.row_offsets, ElementsAre(0, 2, 4, 5));
  const Batch none = ReadBatch(MakeReader(*log, {.period = kAll, .max_history = 0}).get(), 0);
  EXPECT_THAT(none.history_items, IsEmpty());
  EXPECT_EQ(none.rows(), 5);
}

TEST(BatchReader, AbsentColumnsReadAsTheirDefaults) {
  const Folder folder;
  auto tables = testing::TinyRaw().Tables();
  tables["impressions"].Drop("conversion");
  tables["impressions"].Drop("weight");
  WriteTables(tables, folder / "raw");
  ASSERT_TRUE(Prepare({.raw = folder / "raw", .out = folder / "log"}).ok());
  const auto log = TrainingLog::Open(folder / "log");
  ASSERT_TRUE(log.ok()) << log.status();
  const Batch batch = ReadBatch(MakeReader(**log, {.period = kAll}).get(), 0);
  EXPECT_THAT(batch.conversions, ElementsAre(0, 0, 0, 0, 0));
  EXPECT_THAT(batch.weights, ElementsAre(1, 1, 1, 1, 1));
}

TEST(BatchReader, RefusesOptionsOutOfBounds) {
  const Folder folder;
  const auto log = PrepareAndOpen(testing::TinyRaw(), folder);
  ASSERT_NE(log, nullptr);
  const std::vector<BatchOptions> wrong = {{.period = {2, 1}},
                                           {.period = kAll, .requests_per_batch = 0},
                                           {.period = kAll, .max_history = -1},
                                           {.period = kAll, .shuffle_window = -1},
                                           {.period = kAll, .worker = -1},
                                           {.period = kAll, .worker = 2, .workers = 2},
                                           {.period = kAll, .workers = 0}};
  for (const BatchOptions& options : wrong) {
    EXPECT_TRUE(absl::IsInvalidArgument(BatchReader::Create(log.get(), options).status()));
  }
}

}  // namespace
}  // namespace savior
