#include "worker/tables.h"

#include <gtest/gtest.h>

namespace savior {
namespace {

TEST(ModelTables, HaveNoRulesUnlessTold) {
  for (const TableSpec& table : ModelTables(Config{})) {
    EXPECT_EQ(table.dtype, StoreDtype::kFloat32) << table.name;
    EXPECT_EQ(table.admission, AdmissionSpec{}) << table.name;
    EXPECT_EQ(table.eviction, EvictionSpec{}) << table.name;
    EXPECT_EQ(table.bad_gradients, BadGradients::kReject) << table.name;
  }
}

TEST(ModelTables, OfUsersAndItemsHaveTheRulesOfTheConfiguration) {
  Config config;
  config.ps.store_dtype = "bfloat16";
  config.ps.bad_gradients = "skip";
  config.ps.admission = "count";
  config.ps.admission_count = 3;
  config.ps.eviction_idle_steps = 4'000'000'000;
  config.ps.eviction_min_score = 0.25;
  config.ps.eviction_score_idle_steps = 7;
  config.ps.eviction_capacity_rows = int64_t{1} << 40;
  config.ps.eviction_floor_rows = 11;
  config.ps.eviction_max_share_per_minute = 0.5;
  const EvictionSpec eviction{.idle_steps = 4'000'000'000,
                              .min_score = 0.25f,
                              .score_idle_steps = 7,
                              .capacity_rows = uint64_t{1} << 40,
                              .floor_rows = 11,
                              .max_share_per_minute = 0.5f};
  const std::vector<TableSpec> tables = ModelTables(config);
  ASSERT_EQ(tables.size(), size_t{kModelTables});
  for (uint32_t t = 0; t < kModelTables; ++t) {
    const bool ids = t == kUserTable || t == kItemTable;
    const bool learned = t != kContentTable;
    EXPECT_EQ(tables[t].dtype, learned ? StoreDtype::kBfloat16 : StoreDtype::kFloat32);
    EXPECT_EQ(tables[t].bad_gradients, learned ? BadGradients::kSkip : BadGradients::kReject);
    EXPECT_EQ(tables[t].admission.kind, ids ? AdmissionKind::kCount : AdmissionKind::kAll);
    EXPECT_EQ(tables[t].admission.count, ids ? 3u : 1u);
    EXPECT_EQ(tables[t].eviction, ids ? eviction : EvictionSpec{});
  }
  config.model.prefix_ngrams = true;
  const std::vector<TableSpec> more = ModelTables(config);
  ASSERT_EQ(more.size(), size_t{kPrefixTable} + 1);
  EXPECT_EQ(more[kPrefixTable].name, "prefix");
  EXPECT_EQ(more[kPrefixTable].kind, TableKind::kAlign);
  EXPECT_EQ(more[kPrefixTable].dtype, StoreDtype::kBfloat16);
  EXPECT_EQ(more[kPrefixTable].admission.count, 3u);
  EvictionSpec of_rows_alone = eviction;
  of_rows_alone.capacity_rows = of_rows_alone.floor_rows = 0;
  of_rows_alone.max_share_per_minute = 1;
  EXPECT_EQ(more[kPrefixTable].eviction, of_rows_alone);
  EXPECT_EQ(more[kPrefixTable].optimizer, tables[kAlignTable].optimizer);
  config.ps.eviction_idle_steps = 0;
  config.ps.eviction_min_score = 0;
  EXPECT_TRUE(ModelTables(config)[kItemTable].eviction.enabled());
  EXPECT_EQ(ModelTables(config)[kPrefixTable].eviction, EvictionSpec{}) << "capacity alone is none";
  config.model.prefix_ngrams = false;
  config.ps.admission = "probability";
  config.ps.admission_probability = 0.125;
  config.ps.store_dtype = "float16";
  const TableSpec item = ModelTables(config)[kItemTable];
  EXPECT_EQ(item.admission.kind, AdmissionKind::kProbability);
  EXPECT_EQ(item.admission.probability, 0.125f);
  EXPECT_EQ(item.dtype, StoreDtype::kFloat16);
}

TEST(CodebookSlots, AreTwoAndVersionZeroHasTheKeysThatAreAlone) {
  EXPECT_EQ(AlignKey(0, 3, 77), (uint64_t{3} << 32) | 77);
  EXPECT_EQ(AlignKey(1, 3, 77), (uint64_t{1} << 48) | (uint64_t{3} << 32) | 77);
  EXPECT_EQ(AlignKey(6, 3, 77), AlignKey(0, 3, 77));
  EXPECT_EQ(AlignKey(UINT32_MAX, 7, 4095), AlignKey(1, 7, 4095));
  for (const uint32_t version : {0u, 1u, 2u, 9u}) {
    EXPECT_EQ(SlotOfAlignKey(AlignKey(version, 7, UINT32_MAX)), CodebookSlot(version));
    EXPECT_EQ(WithoutSlot(AlignKey(version, 7, 4095)), AlignKey(0, 7, 4095));
  }
}

TEST(ContentRow, HasRoomForTheCodesOfBothSlots) {
  for (uint32_t levels = 1; levels <= 8; ++levels) {
    const ContentLayout layout = {64, levels};
    EXPECT_EQ(layout.row() % 4, 0u);
    EXPECT_EQ(layout.z(0), 0u);
    EXPECT_EQ(layout.z(1), 0u);
    EXPECT_EQ(layout.codes(0), 64u);
    EXPECT_EQ(layout.codes(1), 64 + levels);
    EXPECT_EQ(layout.codes(2), 64u);
    EXPECT_LE(layout.codes(1) + levels, layout.row());
    EXPECT_LT(layout.row() - 64, 2 * levels + 4);
  }
}

TEST(ContentRow, HasAVectorForEachSlotWhereTheEncoderIsRefreshed) {
  const ContentLayout layout = {64, 3, /*z_per_slot=*/true};
  EXPECT_EQ(layout.z(0), 0u);
  EXPECT_EQ(layout.z(1), 64u);
  EXPECT_EQ(layout.z(2), 0u);
  EXPECT_EQ(layout.codes(0), 128u);
  EXPECT_EQ(layout.codes(1), 131u);
  EXPECT_EQ(layout.row(), 136u);
}

TEST(Prefixes, HaveKeysOfTheirBuildLengthAndCodes) {
  const std::vector<int32_t> codes = {3, 0, 7};
  const auto keys = [](uint32_t build, const std::vector<int32_t>& of, uint64_t num_codes) {
    std::vector<uint64_t> all;
    ForEachPrefix(build, of, num_codes, [&](uint64_t key) { all.push_back(key); });
    return all;
  };
  EXPECT_EQ(keys(0, codes, 10),
            (std::vector<uint64_t>{(uint64_t{1} << 45) | 30, (uint64_t{2} << 45) | 307}));
  EXPECT_EQ(keys(2, codes, 10)[1], (uint64_t{2} << 48) | (uint64_t{2} << 45) | 307);
  EXPECT_TRUE(keys(0, {5}, 10).empty());
  EXPECT_TRUE(keys(0, {}, 10).empty());
  // The most there is room for: 2^45 of eight codes.
  const std::vector<int32_t> last(5, 511);
  EXPECT_EQ(keys(kMostBuilds, last, 512).back(),
            (~uint64_t{0} << 48) | (uint64_t{4} << 45) | 0x1fffffffffff);
  for (const uint32_t build : {0u, 1u, kMostBuilds}) {
    for (const uint64_t key : keys(build, codes, 10)) {
      EXPECT_TRUE(IsOfBuild(key, build));
      EXPECT_FALSE(IsOfBuild(key, build + 1));
      EXPECT_EQ(WithoutBuild(key) | PrefixKey(build, 1, 0), key);
    }
    EXPECT_EQ(WithoutBuild(keys(build, codes, 10)[0]), keys(0, codes, 10)[0]);
  }
}

}  // namespace
}  // namespace savior
