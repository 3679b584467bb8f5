// What every EmbeddingStore must do with whole rows: a part of StoreConformance, instantiated with
// it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "tests/ps/store_conformance.h"

namespace savior {

// The learned ones of AllTables, and of each 16-bit type.
inline std::vector<TableSpec> LearnedTables() {
  std::vector<TableSpec> tables = AllTables();
  std::erase_if(tables, [](const TableSpec& spec) { return spec.kind == TableKind::kFrozen; });
  for (const StoreDtype dtype : {StoreDtype::kFloat16, StoreDtype::kBfloat16}) {
    for (const OptimizerKind kind : {OptimizerKind::kAdagrad, OptimizerKind::kAdam}) {
      TableSpec& table = tables.emplace_back(
          IdTable("narrow" + std::to_string(tables.size()), 12, Optimizer(kind, 0.1f)));
      table.dtype = dtype;
    }
  }
  return tables;
}

class WholeRows : public StoreConformance {
 protected:
  // `pushes` pushes of all `keys`, from step `first` on; the gradients are functions of the step.
  void Train(uint32_t table, std::span<const uint64_t> keys, int64_t first, int64_t pushes) {
    for (int64_t step = first; step < first + pushes; ++step) {
      Random random(table, static_cast<uint64_t>(step));
      const std::vector<float> grads =
          RandomFloats(keys.size() * store_->tables()[table].dim, &random);
      const absl::Status status = PushRows(*store_, step, table, keys, grads);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
};

TEST_P(WholeRows, ThatAreMissingReadAsTheyWouldBeginAndAreNotCreated) {
  Make(LearnedTables());
  NaiveStore naive(LearnedTables(), kSeed);
  const std::vector<uint64_t> keys = {0, 1, 12345, UINT64_MAX};
  for (uint32_t t = 0; t < store_->tables().size(); ++t) {
    std::vector<float> expected;
    for (const uint64_t key : keys) {
      const std::vector<float> row = naive.Read(t, key).Whole();
      expected.insert(expected.end(), row.begin(), row.end());
    }
    const Pulled whole = ReadWhole(*store_, t, keys);
    EXPECT_EQ(whole.rows, expected) << store_->tables()[t].name;
    EXPECT_EQ(whole.updates, std::vector<uint32_t>(4, 0));
    EXPECT_EQ(RowsOf(t), 0u);
  }
}

TEST_P(WholeRows, AreReadAsTheModelHasThem) {
  Make(LearnedTables());
  NaiveStore naive(LearnedTables(), kSeed);
  const std::vector<uint64_t> keys = Keys(0, 300);
  for (uint32_t t = 0; t < store_->tables().size(); ++t) {
    Train(t, keys, 0, 3);
    std::vector<float> expected;
    for (int64_t step = 0; step < 3; ++step) {
      Random random(t, static_cast<uint64_t>(step));
      const uint32_t dim = store_->tables()[t].dim;
      const std::vector<float> grads = RandomFloats(keys.size() * dim, &random);
      for (size_t i = 0; i < keys.size(); ++i) naive.Push(step, t, keys[i], &grads[i * dim]);
    }
    for (const uint64_t key : keys) {
      const std::vector<float> row = naive.Read(t, key).Whole();
      expected.insert(expected.end(), row.begin(), row.end());
    }
    const Pulled whole = ReadWhole(*store_, t, keys);
    EXPECT_EQ(whole.rows, expected) << store_->tables()[t].name;
    EXPECT_EQ(whole.updates, std::vector<uint32_t>(keys.size(), 3));
  }
}

// The copy of a row goes on as the row itself does, to the bit: optimizer state, count, rounding.
TEST_P(WholeRows, WrittenAndPushedGoOnAsTheRowsTheyWereReadFrom) {
  Make(LearnedTables());
  // More than the small messages and hot tiers take.
  const std::vector<uint64_t> keys = Keys(0, 400);
  for (uint32_t t = 0; t < store_->tables().size(); ++t) {
    SCOPED_TRACE(store_->tables()[t].name);
    Train(t, keys, 0, 3);
    const Pulled then = ReadWhole(*store_, t, keys);
    Train(t, keys, 3, 3);
    const Pulled later = ReadWhole(*store_, t, keys);
    EXPECT_NE(later, then);
    // Back to what it was, and once more.
    ASSERT_TRUE(WriteWhole(*store_, 2, t, keys, then).ok());
    EXPECT_EQ(ReadWhole(*store_, t, keys), then);
    Train(t, keys, 3, 3);
    EXPECT_EQ(ReadWhole(*store_, t, keys), later);
    EXPECT_EQ(RowsOf(t), keys.size());
  }
}

TEST_P(WholeRows, AreCreatedWhereThereAreNone) {
  Make({AlignSpec("a", 8, Optimizer(OptimizerKind::kAdam)),
        IdTable("r", 4, Optimizer(OptimizerKind::kRowwiseAdagrad))});
  const std::vector<uint64_t> from = Keys(0, 300), to = Keys(1000, 1300);
  for (uint32_t t = 0; t < 2; ++t) {
    Train(t, from, 0, 2);
    const Pulled rows = ReadWhole(*store_, t, from);
    ASSERT_TRUE(WriteWhole(*store_, 9, t, to, rows).ok());
    EXPECT_EQ(ReadWhole(*store_, t, to), rows);
    EXPECT_EQ(ReadWhole(*store_, t, from), rows);
    const Pulled pulled = PullRows(*store_, t, to);
    EXPECT_EQ(pulled, PullRows(*store_, t, from));
    EXPECT_EQ(pulled.updates, std::vector<uint32_t>(300, 2));
    EXPECT_EQ(RowsOf(t), 600u);
    // In float32 nothing depends on the key but the start.
    Train(t, from, 2, 2);
    Train(t, to, 2, 2);
    EXPECT_EQ(ReadWhole(*store_, t, to), ReadWhole(*store_, t, from));
  }
}

TEST_P(WholeRows, OfSixteenBitTablesAreRoundedAsPushedOnesAre) {
  TableSpec half = AlignSpec("half", 4), brain = AlignSpec("brain", 4);
  half.dtype = StoreDtype::kFloat16;
  brain.dtype = StoreDtype::kBfloat16;
  Make({half, brain});
  const std::vector<uint64_t> keys = Keys(0, 200);
  Random random(3);
  for (uint32_t t = 0; t < 2; ++t) {
    Pulled whole{.rows = RandomFloats(keys.size() * 8, &random),
                 .updates = std::vector<uint32_t>(keys.size(), 5)};
    whole.rows[0] = 1e38f;  // beyond float16: the largest there is
    ASSERT_TRUE(WriteWhole(*store_, 0, t, keys, whole).ok());
    const Pulled once = ReadWhole(*store_, t, keys);
    size_t changed = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
      for (size_t d = 0; d < 8; ++d) {
        const float in = whole.rows[i * 8 + d], out = once.rows[i * 8 + d];
        changed += in != out;
        if (d >= 4) {
          EXPECT_EQ(in, out) << "state is not rounded";
        } else if (i > 0) {
          EXPECT_NEAR(in, out, t == 0 ? 0.001 : 0.0079);
        }
      }
    }
    EXPECT_EQ(once.rows[0] < 70000, t == 0);
    EXPECT_GT(changed, 700u);
    // The same bits whenever the same is written, and what was rounded stays.
    ASSERT_TRUE(WriteWhole(*store_, 1, t, keys, whole).ok());
    EXPECT_EQ(ReadWhole(*store_, t, keys), once);
    ASSERT_TRUE(WriteWhole(*store_, 2, t, keys, once).ok());
    EXPECT_EQ(ReadWhole(*store_, t, keys), once);
  }
}

TEST_P(WholeRows, OfSeveralTablesGoInOneCall) {
  Make({AlignSpec("a", 4, Optimizer(OptimizerKind::kAdam)), AlignSpec("b", 8)});
  const std::vector<uint64_t> keys = Keys(0, 50), others = Keys(50, 60);
  Random random(1);
  const std::vector<float> a = RandomFloats(50 * 12, &random), b = RandomFloats(10 * 16, &random),
                           more = RandomFloats(10 * 12, &random);
  const std::vector<uint32_t> counts(50, 4);
  const std::span<const uint32_t> ten = std::span(counts).first(10);
  const TableWrite writes[] = {{0, keys, a, counts}, {1, others, b, ten}, {0, others, more, ten}};
  ASSERT_TRUE(store_->WriteRows(3, writes, Soon()).ok());
  Pulled first{std::vector<float>(50 * 12), std::vector<uint32_t>(50)},
      second{std::vector<float>(10 * 16), std::vector<uint32_t>(10)};
  const TableRead reads[] = {{1, others, second.rows, second.updates},
                             {0, keys, first.rows, first.updates}};
  ASSERT_TRUE(store_->ReadRows(reads, Soon()).ok());
  EXPECT_EQ(first.rows, a);
  EXPECT_EQ(second.rows, b);
  EXPECT_EQ(ReadWhole(*store_, 0, others).rows, more);
  EXPECT_EQ(second.updates, std::vector<uint32_t>(10, 4));
  EXPECT_TRUE(store_->ReadRows({}, Soon()).ok());
  EXPECT_TRUE(store_->WriteRows(0, {}, Soon()).ok());
  EXPECT_TRUE(WriteWhole(*store_, 0, 0, {}, {}).ok());
  EXPECT_EQ(ReadWhole(*store_, 0, {}), Pulled{});
}

// The refused rows are never the first ones of a call: all is looked at before anything is applied.
TEST_P(WholeRows, BadOnesAreRefusedByNameAndChangeNothing) {
  Make({AlignSpec("learned", 4, Optimizer(OptimizerKind::kAdam)), FrozenTable("content", 4)});
  const std::vector<uint64_t> keys = {1, 2}, twice = {3, 3};
  const Pulled good{std::vector<float>(24, 0.5f), {1, 1}};
  const auto refused = [](const absl::Status& status, const std::string& name) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), testing::HasSubstr(name));
  };
  const auto write = [&](const Pulled& whole) { return WriteWhole(*store_, 0, 0, keys, whole); };
  refused(WriteWhole(*store_, 0, 2, keys, good), "table number 2");
  refused(WriteWhole(*store_, 0, 1, keys, {std::vector<float>(8), {1, 1}}), "content is frozen");
  refused(WriteWhole(*store_, 0, 0, twice, good), "table learned, key 3");
  refused(WriteWhole(*store_, -1, 0, keys, good), "step -1");
  refused(write({std::vector<float>(8), {1, 1}}), "table learned");
  refused(write({good.rows, {1}}), "table learned");
  refused(write({good.rows, {1, 0}}), "table learned, key 2");
  for (const size_t at : {13u, 23u}) {  // a weight and a state
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      Pulled whole = good;
      whole.rows[at] = bad;
      refused(write(whole), "table learned, key 2");
    }
  }
  const TableWrite same[] = {
      {0, keys, good.rows, good.updates},
      {0, {keys.data() + 1, 1}, {good.rows.data(), 12}, {good.updates.data(), 1}}};
  refused(store_->WriteRows(0, same, Soon()), "table learned, key 2");

  Pulled out = good;
  const auto read = [&](const TableRead& request) {
    return store_->ReadRows({&request, 1}, Soon());
  };
  refused(read({2, keys, out.rows, out.updates}), "table number 2");
  refused(read({1, keys, std::span(out.rows).first(8), out.updates}), "content is frozen");
  refused(read({0, twice, out.rows, out.updates}), "table learned, key 3");
  refused(read({0, keys, std::span(out.rows).first(8), out.updates}), "table learned");
  refused(read({0, keys, out.rows, {}}), "table learned");
  EXPECT_EQ(out, good);
  EXPECT_EQ(RowsOf(0), 0u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      store_->ReadRows(std::vector<TableRead>{{0, keys, out.rows, out.updates}}, Past())));
  const TableWrite late{0, keys, good.rows, good.updates};
  EXPECT_TRUE(absl::IsDeadlineExceeded(store_->WriteRows(0, {&late, 1}, Past())));
  EXPECT_EQ(RowsOf(0), 0u);
}

// Whoever asks for a row is let in, and a row's age is the step it was written at.
TEST_P(WholeRows, AreAdmittedAlwaysAndAgeAsPushedOnes) {
  TableSpec rules = IdTable("rules", 4);
  rules.admission = {.kind = AdmissionKind::kCount, .count = 3};
  rules.eviction = {.idle_steps = 100, .max_share_per_minute = 1.0f};
  Make({rules});
  const std::vector<uint64_t> old = Keys(0, 50), fresh = Keys(50, 100);
  const Pulled whole{std::vector<float>(50 * 8, 0.5f), std::vector<uint32_t>(50, 7)};
  ASSERT_TRUE(WriteWhole(*store_, 10, 0, old, whole).ok());
  ASSERT_TRUE(WriteWhole(*store_, 2000, 0, fresh, whole).ok());
  EXPECT_EQ(ReadWhole(*store_, 0, fresh), whole);
  // Minutes pass at every shard.
  const std::vector<uint64_t> every = Keys(1000, 1100);
  for (int64_t step = 2001; step < 8000; step += 1000) {
    ASSERT_TRUE(PushRows(*store_, step, 0, every, std::vector<float>(400, 0.0f)).ok());
    ASSERT_TRUE(WriteWhole(*store_, step, 0, fresh, whole).ok());
  }
  EXPECT_EQ(ReadWhole(*store_, 0, old).updates, std::vector<uint32_t>(50, 0));
  EXPECT_EQ(ReadWhole(*store_, 0, fresh), whole);
}

}  // namespace savior
