#include "worker/tables.h"

#include <xxhash.h>

#include <string>

namespace savior {
namespace {

OptimizerKind KindOf(const std::string& name) {
  if (name == "sgd") return OptimizerKind::kSgd;
  if (name == "rowwise_adagrad") return OptimizerKind::kRowwiseAdagrad;
  if (name == "adam") return OptimizerKind::kAdam;
  if (name == "ftrl") return OptimizerKind::kFtrl;
  return OptimizerKind::kAdagrad;
}

StoreDtype DtypeOf(const std::string& name) {
  if (name == "float16") return StoreDtype::kFloat16;
  if (name == "bfloat16") return StoreDtype::kBfloat16;
  return StoreDtype::kFloat32;
}

AdmissionSpec AdmissionOf(const Config::Ps& ps) {
  if (ps.admission == "count") {
    return {.kind = AdmissionKind::kCount, .count = static_cast<uint32_t>(ps.admission_count)};
  }
  if (ps.admission == "probability") {
    return {.kind = AdmissionKind::kProbability,
            .probability = static_cast<float>(ps.admission_probability)};
  }
  return {};
}

EvictionSpec EvictionOf(const Config::Ps& ps) {
  return {.idle_steps = static_cast<uint32_t>(ps.eviction_idle_steps),
          .min_score = static_cast<float>(ps.eviction_min_score),
          .score_idle_steps = static_cast<uint32_t>(ps.eviction_score_idle_steps),
          .capacity_rows = static_cast<uint64_t>(ps.eviction_capacity_rows),
          .floor_rows = static_cast<uint64_t>(ps.eviction_floor_rows),
          .max_share_per_minute = static_cast<float>(ps.eviction_max_share_per_minute)};
}

// Without what depends on how many rows there are: those that a build writes in vain
// (docs/refresh.md, "Prefixes") must not decide about others.
EvictionSpec OfRowsAlone(EvictionSpec spec) {
  spec.capacity_rows = spec.floor_rows = 0;
  spec.max_share_per_minute = 1;
  return spec;
}

}  // namespace

std::vector<TableSpec> ModelTables(const Config& config) {
  OptimizerSpec learned;
  learned.kind = KindOf(config.train.table_optimizer);
  learned.lr = static_cast<float>(config.train.table_lr);
  if (learned.kind == OptimizerKind::kFtrl) learned.initial_accumulator = 0.1f;
  OptimizerSpec align = learned;
  align.lr = static_cast<float>(config.train.align_lr);
  OptimizerSpec none;
  none.kind = OptimizerKind::kNone;

  const auto id_dim = static_cast<uint32_t>(config.model.id_dim);
  const auto feature_dim = static_cast<uint32_t>(config.model.feature_dim);
  const auto dim = static_cast<uint32_t>(config.encoder.dim);
  const auto row = static_cast<uint32_t>(ContentLayout::Of(config).row());
  const auto scale = static_cast<float>(config.model.init_scale);
  std::vector<TableSpec> tables = {
      {"user", id_dim, TableKind::kId, learned, scale},
      {"item", id_dim, TableKind::kId, learned, scale},
      {"feature", feature_dim, TableKind::kId, learned, scale},
      {"align", dim, TableKind::kAlign, align},
      {"content_vector", dim, TableKind::kAlign, align},
      {"content", row, TableKind::kFrozen, none},
  };
  if (config.model.prefix_ngrams) tables.push_back({"prefix", dim, TableKind::kAlign, align});
  for (TableSpec& table : tables) {
    if (table.kind == TableKind::kFrozen) continue;
    table.dtype = DtypeOf(config.ps.store_dtype);
    table.bad_gradients =
        config.ps.bad_gradients == "skip" ? BadGradients::kSkip : BadGradients::kReject;
  }
  // The tables that grow with the data and whose keys come and go.
  for (const uint32_t number : {kUserTable, kItemTable, kPrefixTable}) {
    if (number == tables.size()) continue;
    tables[number].admission = AdmissionOf(config.ps);
    EvictionSpec eviction = EvictionOf(config.ps);
    if (number == kPrefixTable) eviction = OfRowsAlone(eviction);
    if (eviction.enabled()) tables[number].eviction = eviction;
  }
  return tables;
}

uint64_t FeatureKey(std::string_view name, std::string_view value) {
  return XXH3_64bits_withSeed(value.data(), value.size(), XXH3_64bits(name.data(), name.size()));
}

}  // namespace savior
