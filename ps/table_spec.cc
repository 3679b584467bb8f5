#include "ps/table_spec.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <string_view>

#include "ps/optimizer.h"

namespace savior {
namespace {

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= 100 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

absl::Status ValidateTable(const TableSpec& spec) {
  const auto check = [](bool ok, const char* rule) {
    return ok ? absl::OkStatus() : absl::InvalidArgumentError(rule);
  };
  const bool frozen = spec.kind == TableKind::kFrozen;
  const bool no_optimizer = spec.optimizer.kind == OptimizerKind::kNone;
  SAVIOR_RETURN_IF_ERROR(check(IsName(spec.name), "the name must be 1 to 100 of [a-z0-9_]"));
  SAVIOR_RETURN_IF_ERROR(check(spec.dim >= 4 && spec.dim <= 512 && spec.dim % 4 == 0,
                               "dim must be a multiple of 4 in [4, 512]"));
  SAVIOR_RETURN_IF_ERROR(
      check(frozen == no_optimizer, "frozen tables, and no others, have no optimizer"));
  SAVIOR_RETURN_IF_ERROR(check(frozen || spec.dtype == StoreDtype::kFloat32,
                               "only frozen tables may be stored as float16"));
  SAVIOR_RETURN_IF_ERROR(
      check(std::isfinite(spec.init_scale) && spec.init_scale >= 0, "init_scale must be >= 0"));
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
