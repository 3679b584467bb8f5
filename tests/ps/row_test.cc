#include "ps/row.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "common/half.h"
#include "common/initial_row.h"
#include "ps/table_spec.h"
#include "tests/ps/store_testing.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// A row in memory of its own, filled with a pattern that 16-bit types can represent.
struct OwnRow {
  explicit OwnRow(const RowLayout& layout)
      : words(layout.bytes() / sizeof(float)), ref(Fill(layout)) {}
  RowRef Fill(const RowLayout& layout) {
    auto* const head = reinterpret_cast<std::byte*>(words.data());
    const RowRef row = layout.At(head, head + layout.head_bytes());
    row.head = {.updates = 9, .last_step = 0xfffffffe};
    for (uint32_t i = 0; i < layout.dim(); ++i) row.weights[i] = 0.5f * static_cast<float>(i);
    for (uint32_t i = 0; i < layout.state_floats(); ++i)
      row.state[i] = -1.1f * static_cast<float>(i);
    return row;
  }
  std::vector<float> words;
  RowRef ref;
};

TEST(Row, StoredFormReadsBackForEveryTable) {
  std::vector<TableSpec> tables = AllTables();
  for (const StoreDtype dtype : {StoreDtype::kFloat16, StoreDtype::kBfloat16}) {
    tables.push_back(IdTable("narrow", 12, Optimizer(OptimizerKind::kAdam)));
    tables.back().dtype = dtype;
  }
  for (const TableSpec& spec : tables) {
    const RowLayout layout(spec);
    EXPECT_EQ(layout.bytes() % sizeof(float), 0u);
    const OwnRow row(layout);
    std::string stored;
    layout.Encode(row.ref, &stored);
    EXPECT_EQ(stored.size(), layout.stored_bytes());
    OwnRow read(layout);
    std::fill(read.words.begin(), read.words.end(), 0.0f);
    ASSERT_TRUE(layout.Decode(stored, read.ref).ok());
    EXPECT_EQ(read.ref.head.updates, 9u);
    EXPECT_EQ(read.ref.head.last_step, 0xfffffffeu);
    for (uint32_t i = 0; i < layout.dim(); ++i) {
      EXPECT_EQ(read.ref.weights[i], row.ref.weights[i]) << spec.name << " " << i;
    }
    for (uint32_t i = 0; i < layout.state_floats(); ++i) {
      EXPECT_EQ(read.ref.state[i], row.ref.state[i]) << spec.name << " " << i;
    }
  }
}

TEST(Row, StoredFormIsTheDocumentedOne) {
  const RowLayout layout(IdTable("t", 4, Optimizer(OptimizerKind::kRowwiseAdagrad)));
  OwnRow row(layout);
  row.ref.head.updates = 0x01020304;
  row.ref.weights[0] = 1.0f;
  std::string stored;
  layout.Encode(row.ref, &stored);
  EXPECT_EQ(stored.substr(0, 20),
            std::string("\1\0\4\0\1\0\0\0\4\3\2\1\xfe\xff\xff\xff\0\0\x80\x3f", 20));
}

TEST(Row, WrongLengthOrLayoutIsDataLoss) {
  const RowLayout layout(IdTable("t", 8));
  OwnRow row(layout);
  std::string stored;
  layout.Encode(row.ref, &stored);
  for (size_t n = 0; n < stored.size(); ++n) {
    EXPECT_TRUE(absl::IsDataLoss(layout.Decode(stored.substr(0, n), row.ref))) << n;
  }
  EXPECT_TRUE(absl::IsDataLoss(layout.Decode(stored + "x", row.ref)));
  for (size_t i = 0; i < 8; ++i) {  // version, dtype, dim, state, zero
    std::string changed = stored;
    changed[i] = static_cast<char>(changed[i] ^ 2);
    EXPECT_TRUE(absl::IsDataLoss(layout.Decode(changed, row.ref))) << i;
  }
  // Same size, another split: dim 12 and no state, against dim 4 and Adam's 8.
  const RowLayout sgd(IdTable("t", 12, Optimizer(OptimizerKind::kSgd)));
  const RowLayout adam(IdTable("t", 4, Optimizer(OptimizerKind::kAdam)));
  const OwnRow other(sgd);
  sgd.Encode(other.ref, &stored);
  OwnRow into(adam);
  EXPECT_TRUE(absl::IsDataLoss(adam.Decode(stored, into.ref)));
}

TEST(Half, EveryHalfReadsBack) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float value = FloatOfHalf(static_cast<uint16_t>(h));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(FloatOfHalf(HalfOf(value))));
    } else {
      ASSERT_EQ(HalfOf(value), h);
    }
  }
}

TEST(Half, RoundsToTheNearestTiesToEven) {
  // Between each two neighbours: the middle goes to the even one, beyond it to the nearer one.
  for (uint16_t h = 0; h < 0x7bff; ++h) {
    const float low = FloatOfHalf(h);
    const float high = FloatOfHalf(static_cast<uint16_t>(h + 1));
    const float middle = low + (high - low) / 2;  // exact
    const auto even = static_cast<uint16_t>(h % 2 == 0 ? h : h + 1);
    ASSERT_EQ(HalfOf(middle), even) << h;
    ASSERT_EQ(HalfOf(std::nextafter(middle, 0.0f)), h);
    ASSERT_EQ(HalfOf(std::nextafter(middle, high)), h + 1);
    ASSERT_EQ(HalfOf(-middle), even | 0x8000);
  }
  EXPECT_EQ(FloatOfHalf(HalfOf(kMaxHalf)), kMaxHalf);
  EXPECT_EQ(HalfOf(65519.0f), 0x7bff);
  EXPECT_EQ(HalfOf(65520.0f), 0x7c00);
  EXPECT_EQ(HalfOf(std::numeric_limits<float>::infinity()), 0x7c00);
}

TEST(InitialRow, IsAFunctionOfSeedNameAndKey) {
  const auto row = [](const std::string& name, uint64_t seed, uint64_t key) {
    std::vector<float> weights(8);
    InitialRow(IdTable(name, 8), seed).Write(key, weights.data());
    return weights;
  };
  EXPECT_EQ(row("a", 1, 5), row("a", 1, 5));
  std::set<std::vector<float>> distinct = {row("a", 1, 5), row("b", 1, 5), row("a", 2, 5),
                                           row("a", 1, 6)};
  EXPECT_EQ(distinct.size(), 4u);
}

TEST(InitialRow, HasTheScaleAskedFor) {
  TableSpec spec = IdTable("a", 512);
  spec.init_scale = 0.25f;
  const InitialRow initial(spec, 1);
  std::vector<float> weights(512);
  double sum = 0;
  double squares = 0;
  for (uint64_t key = 0; key < 400; ++key) {
    initial.Write(key, weights.data());
    for (const float w : weights) {
      sum += w;
      squares += w * w;
    }
  }
  EXPECT_NEAR(sum / (400 * 512), 0, 0.003);
  EXPECT_NEAR(std::sqrt(squares / (400 * 512)), 0.25, 0.003);
}

TEST(InitialRow, IsZeroUnlessLearnedIds) {
  for (const TableSpec& spec : {AlignSpec("a", 8), FrozenTable("f", 8)}) {
    std::vector<float> weights(8, 1.0f);
    InitialRow(spec, 1).Write(5, weights.data());
    EXPECT_EQ(weights, std::vector<float>(8, 0.0f));
  }
}

TEST(TableSpec, RefusesWhatBreaksTheRules) {
  EXPECT_TRUE(ValidateTables(AllTables()).ok());
  EXPECT_TRUE(ValidateTables({}).ok());
  const auto refused = [](auto change) {
    TableSpec spec = IdTable("item", 8);
    change(&spec);
    const absl::Status status = ValidateTables(std::vector{spec});
    EXPECT_THAT(status.message(), HasSubstr(spec.name));
    return absl::IsInvalidArgument(status);
  };
  using S = TableSpec;
  EXPECT_TRUE(refused([](S* s) { s->name = ""; }));
  EXPECT_TRUE(refused([](S* s) { s->name = "Item"; }));
  EXPECT_TRUE(refused([](S* s) { s->name = "../item"; }));
  for (const uint32_t dim : {0u, 2u, 6u, 516u}) {
    EXPECT_TRUE(refused([dim](S* s) { s->dim = dim; }));
  }
  EXPECT_TRUE(refused([](S* s) { s->kind = TableKind::kFrozen; }));
  EXPECT_TRUE(refused([](S* s) { s->optimizer.kind = OptimizerKind::kNone; }));
  EXPECT_TRUE(refused([](S* s) { s->dtype = static_cast<StoreDtype>(3); }));
  EXPECT_TRUE(refused([](S* s) { s->bad_gradients = static_cast<BadGradients>(2); }));
  EXPECT_TRUE(refused([](S* s) { s->optimizer.lr = -1; }));
  EXPECT_TRUE(refused([](S* s) { s->init_scale = std::nanf(""); }));
  EXPECT_TRUE(
      absl::IsInvalidArgument(ValidateTables(std::vector{IdTable("a", 4), IdTable("a", 8)})));
}

// `change` makes a learned table that is refused for a reason that names `rule`.
void ExpectRefused(const std::string& rule, const std::function<void(TableSpec*)>& change) {
  TableSpec spec = IdTable("item", 8);
  change(&spec);
  const absl::Status status = ValidateTables(std::vector{spec});
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << rule;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("'item'"), HasSubstr(rule)));
}

TEST(TableSpec, LearnedTablesMayBe16BitAdmitAndForget) {
  TableSpec spec = IdTable("item", 8);
  for (const StoreDtype dtype : {StoreDtype::kFloat16, StoreDtype::kBfloat16}) {
    spec.dtype = dtype;
    for (const uint32_t count : {2u, 15u}) {
      spec.admission = {.kind = AdmissionKind::kCount, .count = count};
      EXPECT_TRUE(ValidateTables(std::vector{spec}).ok());
    }
  }
  spec.admission = {.kind = AdmissionKind::kProbability, .probability = 1e-6f};
  spec.eviction = {.idle_steps = 1,
                   .min_score = 0.1f,
                   .score_idle_steps = 1,
                   .capacity_rows = 1,
                   .floor_rows = 1,
                   .max_share_per_minute = 1.0f};
  spec.bad_gradients = BadGradients::kSkip;
  EXPECT_TRUE(ValidateTables(std::vector{spec}).ok());
}

TEST(TableSpec, RefusesAdmissionBeyondItsBounds) {
  for (const uint32_t count : {0u, 1u, 16u}) {
    ExpectRefused("count must be in [2, 15]", [count](TableSpec* s) {
      s->admission = {.kind = AdmissionKind::kCount, .count = count};
    });
  }
  for (const float probability : {0.0f, -0.1f, 1.1f, std::nanf("")}) {
    ExpectRefused("probability must be in (0, 1]", [probability](TableSpec* s) {
      s->admission = {.kind = AdmissionKind::kProbability, .probability = probability};
    });
  }
  ExpectRefused("no such kind",
                [](TableSpec* s) { s->admission.kind = static_cast<AdmissionKind>(3); });
}

TEST(TableSpec, RefusesEvictionBeyondItsBounds) {
  for (const float share : {0.0f, -0.1f, 1.1f, std::nanf("")}) {
    ExpectRefused("max_share_per_minute",
                  [share](TableSpec* s) { s->eviction.max_share_per_minute = share; });
  }
  for (const float score : {-0.1f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    ExpectRefused("min_score must be >= 0", [score](TableSpec* s) {
      s->eviction.min_score = score;
      s->eviction.score_idle_steps = 1;
    });
  }
  ExpectRefused("score_idle_steps must be > 0", [](TableSpec* s) { s->eviction.min_score = 0.1f; });
}

TEST(TableSpec, FrozenTablesKeepAllRows) {
  TableSpec spec = FrozenTable("content", 8, StoreDtype::kBfloat16);
  EXPECT_TRUE(ValidateTables(std::vector{spec}).ok());
  spec.admission = {.kind = AdmissionKind::kCount, .count = 2};
  EXPECT_THAT(ValidateTables(std::vector{spec}).message(), HasSubstr("admission is for learned"));
  spec.admission = {};
  spec.eviction.idle_steps = 5;
  EXPECT_THAT(ValidateTables(std::vector{spec}).message(), HasSubstr("eviction is for learned"));
}

}  // namespace
}  // namespace savior
