#include "common/store_checks.h"

#include <absl/strings/str_cat.h>

#include <limits>

#include "common/finite.h"
#include "common/half.h"

namespace savior {
namespace {

constexpr float kMaxFloat = std::numeric_limits<float>::max();

// kInvalidArgument names the first key whose row has a value of a magnitude above `max`, or NaN.
absl::Status CheckValues(const TableSpec& spec, std::span<const uint64_t> keys,
                         std::span<const float> rows, float max) {
  if (AllWithin(rows, max)) return absl::OkStatus();
  size_t i = 0;
  while (AllWithin(rows.subspan(i * spec.dim, spec.dim), max)) ++i;
  return absl::InvalidArgumentError(absl::StrCat("table ", spec.name, ", key ", keys[i],
                                                 ": a value is not finite or beyond ", max));
}

absl::Status CheckSizes(std::span<const TableSpec> tables, uint32_t table, size_t keys,
                        size_t floats) {
  SAVIOR_RETURN_IF_ERROR(CheckTable(tables, table));
  const TableSpec& spec = tables[table];
  if (keys > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("table ", spec.name, ": ", keys, " keys"));
  }
  if (floats == keys * spec.dim) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("table ", spec.name, ": ", keys, " keys of dim ",
                                                 spec.dim, " with ", floats, " floats"));
}

}  // namespace

absl::Status CheckTable(std::span<const TableSpec> tables, uint32_t table) {
  if (table < tables.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("table number ", table, ": there are ", tables.size(), " tables"));
}

absl::Status CheckStep(int64_t step) {
  if (step >= 0 && step <= kMaxPushStep) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("step ", step, " is not in [0, 2^32)"));
}

absl::Status CheckPull(std::span<const TableSpec> tables, const TablePull& pull) {
  SAVIOR_RETURN_IF_ERROR(CheckSizes(tables, pull.table, pull.keys.size(), pull.rows.size()));
  if (pull.updates.empty() || pull.updates.size() == pull.keys.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("table ", tables[pull.table].name, ": ",
                                                 pull.keys.size(), " keys with ",
                                                 pull.updates.size(), " update counts"));
}

absl::Status CheckPush(std::span<const TableSpec> tables, const TablePush& push) {
  SAVIOR_RETURN_IF_ERROR(CheckSizes(tables, push.table, push.keys.size(), push.grads.size()));
  const TableSpec& spec = tables[push.table];
  if (spec.kind == TableKind::kFrozen) {
    return absl::InvalidArgumentError(
        absl::StrCat("table ", spec.name, " is frozen: put, do not push"));
  }
  if (spec.bad_gradients == BadGradients::kSkip) return absl::OkStatus();
  return CheckValues(spec, push.keys, push.grads, kMaxFloat);
}

absl::Status CheckPut(std::span<const TableSpec> tables, const TablePut& put) {
  SAVIOR_RETURN_IF_ERROR(CheckSizes(tables, put.table, put.keys.size(), put.rows.size()));
  const TableSpec& spec = tables[put.table];
  if (spec.kind != TableKind::kFrozen) {
    return absl::InvalidArgumentError(
        absl::StrCat("table ", spec.name, " is learned: push, do not put"));
  }
  const float max = spec.dtype == StoreDtype::kFloat16    ? kMaxHalf
                    : spec.dtype == StoreDtype::kBfloat16 ? kMaxBfloat
                                                          : kMaxFloat;
  return CheckValues(spec, put.keys, put.rows, max);
}

}  // namespace savior
