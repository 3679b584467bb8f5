// What every EmbeddingStore must do, as a suite over factories. A test program of an implementation
// instantiates it:
//
//   INSTANTIATE_TEST_SUITE_P(Mine, StoreConformance,
//                            testing::Values(StoreMaker{"mine", [](...) {...}}));
//
// Tables are AllTables() or, for degenerate sizes, others.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "common/store.h"
#include "tests/ps/naive_store.h"
#include "tests/ps/store_testing.h"

namespace savior {

struct StoreMaker {
  std::string name;
  // An empty store over these tables and seed, with whatever it needs to live. Called once per
  // test.
  std::function<std::shared_ptr<EmbeddingStore>(std::vector<TableSpec>, uint64_t)> make;
};

inline std::ostream& operator<<(std::ostream& out, const StoreMaker& maker) {
  return out << maker.name;
}

class StoreConformance : public testing::TestWithParam<StoreMaker> {
 protected:
  static constexpr uint64_t kSeed = 17;

  void Make(std::vector<TableSpec> tables) { store_ = GetParam().make(std::move(tables), kSeed); }
  uint32_t TableNamed(const std::string& name) const {
    for (uint32_t t = 0; t < store_->tables().size(); ++t) {
      if (store_->tables()[t].name == name) return t;
    }
    ADD_FAILURE() << name;
    return 0;
  }
  uint64_t RowsOf(uint32_t table) {
    const auto stats = store_->Stats(Soon());
    EXPECT_TRUE(stats.ok()) << stats.status();
    return stats->tables.at(table).rows;
  }

  std::shared_ptr<EmbeddingStore> store_;
};

TEST_P(StoreConformance, MissingRowsReadAsInitialValuesAndAreNotCreated) {
  Make(AllTables());
  NaiveStore naive(AllTables(), kSeed);
  const std::vector<uint64_t> keys = {0, 1, 12345, UINT64_MAX};
  for (uint32_t t = 0; t < store_->tables().size(); ++t) {
    const uint32_t dim = store_->tables()[t].dim;
    const Pulled pulled = PullRows(*store_, t, keys);
    EXPECT_EQ(pulled.updates, std::vector<uint32_t>(4, 0));
    for (size_t i = 0; i < keys.size(); ++i) {
      const std::vector<float> row(pulled.rows.begin() + static_cast<int64_t>(i * dim),
                                   pulled.rows.begin() + static_cast<int64_t>((i + 1) * dim));
      EXPECT_EQ(row, naive.Read(t, keys[i]).weights);
      const bool zeros = row == std::vector<float>(dim, 0.0f);
      EXPECT_EQ(zeros, store_->tables()[t].kind != TableKind::kId);
    }
    EXPECT_EQ(PullRows(*store_, t, keys), pulled);
    EXPECT_EQ(RowsOf(t), 0u);
  }
}

TEST_P(StoreConformance, PushAppliesOneStepToEachRow) {
  Make({AlignSpec("a", 4, Optimizer(OptimizerKind::kSgd, 0.5f))});
  const std::vector<uint64_t> keys = {7, 3};
  ASSERT_TRUE(PushRows(*store_, 0, 0, keys, std::vector<float>{1, 2, 3, 4, -8, 0, 0, 8}).ok());
  ASSERT_TRUE(PushRows(*store_, 1, 0, std::vector<uint64_t>{3}, std::vector<float>(4, 2)).ok());
  const Pulled pulled = PullRows(*store_, 0, keys);
  EXPECT_EQ(pulled.rows, (std::vector<float>{-0.5f, -1, -1.5f, -2, 3, -1, -1, -5}));
  EXPECT_EQ(pulled.updates, (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(RowsOf(0), 2u);
}

TEST_P(StoreConformance, EveryTableFollowsTheModel) {
  Make(AllTables());
  NaiveStore naive(AllTables(), kSeed);
  Random random(kSeed);
  for (int64_t step = 0; step < 5; ++step) {
    for (uint32_t t = 0; t < store_->tables().size(); ++t) {
      const TableSpec& spec = store_->tables()[t];
      const std::vector<uint64_t> keys = Keys(random.Below(100), 100 + random.Below(500));
      const std::vector<float> values = RandomFloats(keys.size() * spec.dim, &random);
      const bool frozen = spec.kind == TableKind::kFrozen;
      const absl::Status status =
          frozen ? PutRows(*store_, t, keys, values) : PushRows(*store_, step, t, keys, values);
      ASSERT_TRUE(status.ok()) << status;
      for (size_t i = 0; i < keys.size(); ++i) {
        const float* const row = values.data() + i * spec.dim;
        frozen ? naive.Put(t, keys[i], row) : naive.Push(step, t, keys[i], row);
      }
    }
  }
  for (uint32_t t = 0; t < store_->tables().size(); ++t) {
    const uint32_t dim = store_->tables()[t].dim;
    const Pulled pulled = PullRows(*store_, t, Keys(0, 700));
    for (uint64_t key = 0; key < 700; ++key) {
      const NaiveStore::Row row = naive.Read(t, key);
      EXPECT_EQ(pulled.updates[key], row.head.updates);
      for (uint32_t d = 0; d < dim; ++d) EXPECT_EQ(pulled.rows[key * dim + d], row.weights[d]);
    }
    EXPECT_EQ(RowsOf(t), naive.Count(t));
  }
}

TEST_P(StoreConformance, PutReplacesAndRoundsToTheTablesType) {
  Make({FrozenTable("full", 4), FrozenTable("half", 4, StoreDtype::kFloat16)});
  const std::vector<uint64_t> keys = {1};
  const std::vector<float> row = {0.1f, 1.0f, -65504.0f, 1e-9f};
  for (uint32_t t = 0; t < 2; ++t) {
    ASSERT_TRUE(PutRows(*store_, t, keys, std::vector<float>(4, 9)).ok());
    ASSERT_TRUE(PutRows(*store_, t, keys, row).ok());
  }
  EXPECT_EQ(PullRows(*store_, 0, keys).rows, row);
  EXPECT_EQ(PullRows(*store_, 1, keys).rows, (std::vector<float>{0.0999755859375f, 1, -65504, 0}));
}

TEST_P(StoreConformance, NoKeysAndNoRequestsAreFine) {
  Make(AllTables());
  EXPECT_TRUE(store_->Pull({}, Soon()).ok());
  EXPECT_TRUE(store_->Push(0, {}, Soon()).ok());
  EXPECT_TRUE(store_->Put({}, Soon()).ok());
  EXPECT_TRUE(store_->Hint(0, {}).ok());
  for (uint32_t t = 0; t < store_->tables().size(); ++t) {
    EXPECT_EQ(PullRows(*store_, t, {}).rows.size(), 0u);
    EXPECT_TRUE(HintRows(*store_, t, {}).ok());
    EXPECT_EQ(RowsOf(t), 0u);
  }
  EXPECT_TRUE(PushRows(*store_, 0, 0, {}, {}).ok());
}

TEST_P(StoreConformance, TheNarrowestAndTheWidestRowsWork) {
  Make({IdTable("narrow", 4, Optimizer(OptimizerKind::kAdam)),
        IdTable("wide", 512, Optimizer(OptimizerKind::kAdam))});
  NaiveStore naive(store_->tables(), kSeed);
  Random random(1);
  for (uint32_t t = 0; t < 2; ++t) {
    const uint32_t dim = store_->tables()[t].dim;
    for (const size_t n : {1u, 300u}) {
      const std::vector<uint64_t> keys = Keys(0, n);
      const std::vector<float> grads = RandomFloats(n * dim, &random);
      ASSERT_TRUE(PushRows(*store_, 0, t, keys, grads).ok());
      for (size_t i = 0; i < n; ++i) naive.Push(0, t, keys[i], &grads[i * dim]);
    }
    const Pulled pulled = PullRows(*store_, t, Keys(0, 300));
    for (uint64_t key = 0; key < 300; ++key) {
      const std::vector<float> row = naive.Read(t, key).weights;
      ASSERT_TRUE(std::equal(row.begin(), row.end(),
                             pulled.rows.begin() + static_cast<int64_t>(key * dim)));
    }
  }
}

TEST_P(StoreConformance, SeveralTablesGoInOneCall) {
  Make({AlignSpec("a", 4, Optimizer(OptimizerKind::kSgd, 1)),
        AlignSpec("b", 8, Optimizer(OptimizerKind::kSgd, 1))});
  const std::vector<uint64_t> keys = Keys(0, 10);
  const std::vector<float> ones(80, 1.0f);
  const std::span<const float> all(ones);
  const TablePush pushes[] = {{0, keys, all.subspan(0, 40)}, {1, keys, all}};
  ASSERT_TRUE(store_->Push(0, pushes, Soon()).ok());
  std::vector<float> a(40);
  std::vector<float> b(80);
  std::vector<float> again(40);
  const TablePull pulls[] = {{1, keys, b}, {0, keys, a}, {0, keys, again}};
  ASSERT_TRUE(store_->Pull(pulls, Soon()).ok());
  EXPECT_EQ(a, std::vector<float>(40, -1));
  EXPECT_EQ(b, std::vector<float>(80, -1));
  EXPECT_EQ(again, a);
}

TEST_P(StoreConformance, BadRequestsAreRefusedByNameAndChangeNothing) {
  Make({IdTable("learned", 4), FrozenTable("content", 4, StoreDtype::kFloat16)});
  const std::vector<uint64_t> keys = {1, 2};
  std::vector<float> rows(8);
  std::vector<float> short_rows(7);
  std::vector<uint32_t> one_count(1);
  const auto refused = [](const absl::Status& status, const std::string& name) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), testing::HasSubstr(name));
  };
  const auto pull = [&](const TablePull& request) { return store_->Pull({&request, 1}, Soon()); };
  refused(pull({.table = 2, .keys = keys, .rows = rows}), "2");
  refused(pull({.table = 0, .keys = keys, .rows = short_rows}), "learned");
  refused(pull({.table = 0, .keys = keys, .rows = rows, .updates = one_count}), "learned");
  refused(PushRows(*store_, 0, 2, keys, rows), "2");
  refused(PushRows(*store_, 0, 0, keys, short_rows), "learned");
  refused(PushRows(*store_, 0, 1, keys, rows), "content");
  refused(PushRows(*store_, -1, 0, keys, rows), "-1");
  refused(PutRows(*store_, 0, keys, rows), "learned");
  refused(PutRows(*store_, 1, keys, short_rows), "content");
  refused(HintRows(*store_, 2, keys), "2");
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    rows[5] = bad;
    refused(PushRows(*store_, 0, 0, keys, rows), "table learned, key 2");
    refused(PutRows(*store_, 1, keys, rows), "table content, key 2");
  }
  rows[5] = 70000;
  refused(PutRows(*store_, 1, keys, rows), "table content, key 2");
  EXPECT_EQ(RowsOf(0), 0u);
  EXPECT_EQ(RowsOf(1), 0u);
}

TEST_P(StoreConformance, APastDeadlineIsExceededAndChangesNothing) {
  Make({IdTable("t", 4)});
  const std::vector<uint64_t> keys = {1};
  std::vector<float> rows(4, 5.0f);
  const TablePull pull{.table = 0, .keys = keys, .rows = rows};
  const TablePush push{.table = 0, .keys = keys, .grads = rows};
  EXPECT_TRUE(absl::IsDeadlineExceeded(store_->Pull({&pull, 1}, Past())));
  EXPECT_TRUE(absl::IsDeadlineExceeded(store_->Push(0, {&push, 1}, Past())));
  EXPECT_TRUE(absl::IsDeadlineExceeded(store_->Stats(Past()).status()));
  EXPECT_EQ(rows, std::vector<float>(4, 5.0f));
  EXPECT_EQ(RowsOf(0), 0u);
}

TEST_P(StoreConformance, HintsChangeNoValue) {
  Make(AllTables());
  Random random(2);
  for (uint32_t t = 0; t < 3; ++t) {
    const std::vector<uint64_t> keys = Keys(0, 200);
    ASSERT_TRUE(
        PushRows(*store_, 0, t, keys, RandomFloats(keys.size() * store_->tables()[t].dim, &random))
            .ok());
    const Pulled before = PullRows(*store_, t, Keys(0, 400));
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(HintRows(*store_, t, Keys(0, 400)).ok());
    EXPECT_EQ(PullRows(*store_, t, Keys(0, 400)), before);
    EXPECT_EQ(RowsOf(t), 200u);
  }
}

TEST_P(StoreConformance, ManyCallersAtOnceLoseNoUpdate) {
  Make({AlignSpec("t", 4, Optimizer(OptimizerKind::kSgd, 1))});
  constexpr int kCallers = 4;
  constexpr int kPushes = 50;
  const std::vector<uint64_t> keys = Keys(0, 64);
  std::vector<std::thread> callers;
  callers.reserve(kCallers);
  for (int c = 0; c < kCallers; ++c) {
    callers.emplace_back([&] {
      const std::vector<float> grads(keys.size() * 4, -1.0f);
      for (int i = 0; i < kPushes; ++i) {
        EXPECT_TRUE(PushRows(*store_, i, 0, keys, grads).ok());
        EXPECT_TRUE(HintRows(*store_, 0, keys).ok());
        EXPECT_GE(PullRows(*store_, 0, keys).rows[0], static_cast<float>(i + 1));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const Pulled pulled = PullRows(*store_, 0, keys);
  EXPECT_EQ(pulled.rows, std::vector<float>(keys.size() * 4, kCallers * kPushes));
  EXPECT_EQ(pulled.updates, std::vector<uint32_t>(keys.size(), kCallers * kPushes));
}

TEST_P(StoreConformance, StatsCountRowsPulled) {
  Make({IdTable("t", 4), IdTable("u", 4)});
  const std::vector<uint64_t> keys = Keys(0, 10);
  ASSERT_TRUE(PushRows(*store_, 0, 0, keys, std::vector<float>(40, 1.0f)).ok());
  PullRows(*store_, 0, Keys(5, 25));
  const auto stats = store_->Stats(Soon());
  ASSERT_TRUE(stats.ok());
  ASSERT_EQ(stats->tables.size(), 2u);
  EXPECT_EQ(stats->tables.at(0).name, "t");
  EXPECT_EQ(stats->tables.at(0).rows, 10u);
  EXPECT_EQ(stats->tables.at(0).pulled, 20u);
  EXPECT_EQ(stats->tables.at(0).missing, 15u);
  EXPECT_EQ(stats->tables.at(1).name, "u");
  EXPECT_EQ(stats->tables.at(1).pulled, 0u);
}

}  // namespace savior
