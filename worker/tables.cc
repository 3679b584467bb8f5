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
  const auto row = ContentRowDim(dim, static_cast<uint32_t>(config.codebook.levels));
  const auto scale = static_cast<float>(config.model.init_scale);
  return {
      {"user", id_dim, TableKind::kId, learned, scale},
      {"item", id_dim, TableKind::kId, learned, scale},
      {"feature", feature_dim, TableKind::kId, learned, scale},
      {"align", dim, TableKind::kAlign, align},
      {"content_vector", dim, TableKind::kAlign, align},
      {"content", row, TableKind::kFrozen, none},
  };
}

uint64_t FeatureKey(std::string_view name, std::string_view value) {
  return XXH3_64bits_withSeed(value.data(), value.size(), XXH3_64bits(name.data(), name.size()));
}

}  // namespace savior
