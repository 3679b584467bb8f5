#include "common/store_checks.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "common/half.h"
#include "common/simd.h"

namespace savior {
namespace {

constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kMaxBfloat = 0x1.fep127f;

// The largest magnitude's bits, NaN above infinity. An integer maximum vectorises, a search with an
// exit does not.
SAVIOR_SIMD uint32_t LargestBits(const float* values, size_t n) {
  uint32_t largest = 0;
  for (size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  }
  return largest;
}

// kInvalidArgument names the first key whose row has a value of a magnitude above `max`, or NaN.
absl::Status CheckValues(const TableSpec& spec, std::span<const uint64_t> keys,
                         std::span<const float> rows, float max) {
  const auto bound = std::bit_cast<uint32_t>(max);
  if (LargestBits(rows.data(), rows.size()) <= bound) return absl::OkStatus();
  size_t i = 0;
  while (LargestBits(&rows[i * spec.dim], spec.dim) <= bound) ++i;
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
