#include "worker/refresh/refresh_snapshot.h"

#include <algorithm>
#include <utility>

#include "common/random.h"
#include "worker/arm.h"
#include "worker/refresh/content_weights.h"
#include "worker/refresh/prefix_remap.h"
#include "worker/step_inputs.h"
#include "worker/tables.h"

namespace savior {
namespace {

constexpr uint64_t kSampleStream = 0x5A3B;

// The rest of a list after a seeded shuffle, `most` at most; ascending.
std::vector<int32_t> Sampled(std::vector<int32_t> from, size_t most, uint64_t seed) {
  if (from.size() > most) {
    Random random(seed, kSampleStream);
    for (size_t i = 0; i < most; ++i) std::swap(from[i], from[i + random.Below(from.size() - i)]);
    from.resize(most);
    std::ranges::sort(from);
  }
  return from;
}

// Of the contents `keys`, [n, levels - 1, dim].
absl::StatusOr<std::vector<float>> PrefixesInUse(const Config& config, const RefreshPlan& plan,
                                                 const std::vector<uint64_t>& keys,
                                                 EmbeddingStore& store) {
  const ContentLayout layout = ContentLayout::Of(config);
  const size_t width = store.tables()[kContentTable].dim;
  std::vector<float> rows(keys.size() * width);
  const TablePull pull = {kContentTable, keys, rows};
  SAVIOR_RETURN_IF_ERROR(store.Pull({&pull, 1}, StoreDeadline(config)));
  std::vector<int32_t> codes;
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t l = 0; l < layout.levels; ++l) {
      codes.push_back(static_cast<int32_t>(rows[i * width + layout.codes(plan.version - 1) + l]));
    }
  }
  return PrefixRowsOf(codes, layout.levels, static_cast<uint64_t>(config.codebook.codes),
                      kPrefixTable, plan.build_in_use, store, StoreDeadline(config));
}

}  // namespace

Deadline StoreDeadline(const Config& config) {
  return DeadlineIn(Milliseconds(config.ps.timeout_s));
}

bool Distils(const Config& config) {
  return ArmOf(config.model.arm).alignment && config.refresh.remap == "distilled";
}

bool HasOwnVectors(const Config& config) {
  return ArmOf(config.model.arm).alignment && config.model.alignment == "hybrid";
}

absl::StatusOr<RefreshSnapshot> TakeSnapshot(const TrainingLog& log, const Config& config,
                                             const RefreshPlan& plan, uint32_t workers,
                                             TensorFile dense, EmbeddingStore& store) {
  RefreshSnapshot snapshot;
  snapshot.dense = std::move(dense);
  SAVIOR_ASSIGN_OR_RETURN(snapshot.align,
                          ReadAlignTable(store, config, plan.version - 1, StoreDeadline(config)));
  const std::vector<uint8_t> listed = ListedBefore(log, plan.seen.until);
  std::vector<int32_t> known;
  for (size_t c = 0; c < listed.size(); c += workers) {
    if (listed[c] != 0) known.push_back(static_cast<int32_t>(c));
  }
  // Half of them to measure on.
  snapshot.contents = Sampled(std::move(known), 2 * static_cast<size_t>(config.refresh.sample),
                              MixTwo(static_cast<uint64_t>(config.seed), plan.version));
  const bool prefixes = PrefixesOf(config) > 0 && Distils(config);
  if (!prefixes && !HasOwnVectors(config)) return snapshot;
  const std::vector<uint64_t> all = ContentKeys(log);
  std::vector<uint64_t> keys;
  for (const int32_t c : snapshot.contents) keys.push_back(all[static_cast<size_t>(c)]);
  if (prefixes) {
    std::vector<uint64_t> learnt_from;
    for (size_t s = 0; s < keys.size(); s += 2) learnt_from.push_back(keys[s]);
    SAVIOR_ASSIGN_OR_RETURN(snapshot.prefixes, PrefixesInUse(config, plan, learnt_from, store));
  }
  if (!HasOwnVectors(config)) return snapshot;
  const auto dim = static_cast<size_t>(config.encoder.dim);
  snapshot.own.resize(keys.size() * dim);
  std::vector<uint32_t> updates(keys.size());
  const TablePull pull = {kContentVectorTable, keys, snapshot.own, updates};
  SAVIOR_RETURN_IF_ERROR(store.Pull({&pull, 1}, StoreDeadline(config)));
  for (size_t i = 0; i < keys.size(); ++i) {
    const double seen = updates[i];
    const auto shrink =
        static_cast<float>(seen == 0 ? 0.0 : seen / (seen + config.model.hybrid_shrinkage));
    for (size_t d = 0; d < dim; ++d) snapshot.own[i * dim + d] *= shrink;
  }
  return snapshot;
}

}  // namespace savior
