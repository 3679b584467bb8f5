#include "ps/table_spec.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include "ps/key_counts.h"
#include "ps/optimizer.h"

namespace savior {
namespace {

static_assert(KeyCounts::kMaxLimit == 15, "ValidateAdmission's message and common/store.h say so");

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 100 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

absl::Status Check(bool ok, const char* rule) {
  return ok ? absl::OkStatus() : absl::InvalidArgumentError(rule);
}

absl::Status ValidateAdmission(const AdmissionSpec& spec) {
  switch (spec.kind) {
    case AdmissionKind::kAll:
      return absl::OkStatus();
    case AdmissionKind::kCount:
      return Check(spec.count >= 2 && spec.count <= KeyCounts::kMaxLimit,
                   "admission: count must be in [2, 15]");
    case AdmissionKind::kProbability:
      return Check(spec.probability > 0 && spec.probability <= 1,
                   "admission: probability must be in (0, 1]");
  }
  return absl::InvalidArgumentError("admission: there is no such kind");
}

absl::Status ValidateEviction(const EvictionSpec& spec) {
  SAVIOR_RETURN_IF_ERROR(Check(std::isfinite(spec.min_score) && spec.min_score >= 0,
                               "eviction: min_score must be >= 0"));
  // Rows start small: they would go before they had a chance.
  SAVIOR_RETURN_IF_ERROR(Check(spec.min_score == 0 || spec.score_idle_steps > 0,
                               "eviction: with min_score, score_idle_steps must be > 0"));
  return Check(spec.max_share_per_minute > 0 && spec.max_share_per_minute <= 1,
               "eviction: max_share_per_minute must be in (0, 1]");
}

absl::Status ValidateTable(const TableSpec& spec) {
  const bool frozen = spec.kind == TableKind::kFrozen;
  const bool no_optimizer = spec.optimizer.kind == OptimizerKind::kNone;
  SAVIOR_RETURN_IF_ERROR(Check(IsName(spec.name), "the name must be 1 to 100 of [a-z0-9_]"));
  SAVIOR_RETURN_IF_ERROR(Check(spec.dim >= 4 && spec.dim <= 512 && spec.dim % 4 == 0,
                               "dim must be a multiple of 4 in [4, 512]"));
  SAVIOR_RETURN_IF_ERROR(
      Check(frozen == no_optimizer, "frozen tables, and no others, have no optimizer"));
  SAVIOR_RETURN_IF_ERROR(
      Check(spec.dtype <= StoreDtype::kBfloat16, "the dtype must be float32, float16 or bfloat16"));
  SAVIOR_RETURN_IF_ERROR(
      Check(std::isfinite(spec.init_scale) && spec.init_scale >= 0, "init_scale must be >= 0"));
  SAVIOR_RETURN_IF_ERROR(Check(!frozen || spec.admission == AdmissionSpec{},
                               "admission is for learned tables: put rows are all kept"));
  SAVIOR_RETURN_IF_ERROR(Check(!frozen || spec.eviction == EvictionSpec{},
                               "eviction is for learned tables: put rows are all kept"));
  SAVIOR_RETURN_IF_ERROR(
      Check(spec.bad_gradients <= BadGradients::kSkip, "bad_gradients must be reject or skip"));
  SAVIOR_RETURN_IF_ERROR(ValidateAdmission(spec.admission));
  SAVIOR_RETURN_IF_ERROR(ValidateEviction(spec.eviction));
  return ValidateOptimizer(spec.optimizer);
}

}  // namespace

absl::Status ValidateTables(std::span<const TableSpec> tables) {
  std::set<std::string_view> names;
  for (const TableSpec& spec : tables) {
    SAVIOR_RETURN_IF_ERROR(Annotate(ValidateTable(spec), absl::StrCat("table '", spec.name, "'")));
    if (!names.insert(spec.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("table '", spec.name, "' is there twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace savior
