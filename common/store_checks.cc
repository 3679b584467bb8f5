#include "common/store_checks.h"

#include <absl/container/flat_hash_set.h>
#include <absl/strings/str_cat.h>

#include <limits>
#include <utility>

#include "common/finite.h"
#include "common/half.h"

namespace savior {
namespace {

constexpr float kMaxFloat = std::numeric_limits<float>::max();

// rows: [keys, width]. kInvalidArgument names the first key whose row has a value of a magnitude
// above `max`, or NaN.
absl::Status CheckValues(const TableSpec& spec, std::span<const uint64_t> keys,
                         std::span<const float> rows, size_t width, float max) {
  if (AllWithin(rows, max)) return absl::OkStatus();
  size_t i = 0;
  while (AllWithin(rows.subspan(i * width, width), max)) ++i;
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

absl::Status CheckUpdates(const TableSpec& spec, size_t keys, size_t updates) {
  if (updates == keys) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("table ", spec.name, ": ", keys, " keys with ", updates, " update counts"));
}

// Of whole rows.
absl::Status CheckWholeSizes(std::span<const TableSpec> tables, uint32_t table, size_t keys,
                             size_t floats, size_t updates) {
  SAVIOR_RETURN_IF_ERROR(CheckTable(tables, table));
  const TableSpec& spec = tables[table];
  SAVIOR_RETURN_IF_ERROR(CheckHasWholeRows(spec));
  if (keys > UINT32_MAX || floats != keys * RowFloats(spec)) {
    return absl::InvalidArgumentError(absl::StrCat("table ", spec.name, ": ", keys,
                                                   " whole rows of ", RowFloats(spec),
                                                   " floats each with ", floats, " floats"));
  }
  return CheckUpdates(spec, keys, updates);
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
  if (pull.updates.empty()) return absl::OkStatus();
  return CheckUpdates(tables[pull.table], pull.keys.size(), pull.updates.size());
}

absl::Status CheckPush(std::span<const TableSpec> tables, const TablePush& push) {
  SAVIOR_RETURN_IF_ERROR(CheckSizes(tables, push.table, push.keys.size(), push.grads.size()));
  const TableSpec& spec = tables[push.table];
  if (spec.kind == TableKind::kFrozen) {
    return absl::InvalidArgumentError(
        absl::StrCat("table ", spec.name, " is frozen: put, do not push"));
  }
  if (spec.bad_gradients == BadGradients::kSkip) return absl::OkStatus();
  return CheckValues(spec, push.keys, push.grads, spec.dim, kMaxFloat);
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
  return CheckValues(spec, put.keys, put.rows, spec.dim, max);
}

absl::Status CheckHasWholeRows(const TableSpec& spec) {
  if (spec.kind != TableKind::kFrozen) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("table ", spec.name, " is frozen: its rows have no state; pull and put them"));
}

absl::Status CheckRead(std::span<const TableSpec> tables, const TableRead& read) {
  return CheckWholeSizes(tables, read.table, read.keys.size(), read.rows.size(),
                         read.updates.size());
}

absl::Status CheckWrite(std::span<const TableSpec> tables, const TableWrite& write) {
  SAVIOR_RETURN_IF_ERROR(CheckWholeSizes(tables, write.table, write.keys.size(), write.rows.size(),
                                         write.updates.size()));
  const TableSpec& spec = tables[write.table];
  for (size_t i = 0; i < write.keys.size(); ++i) {
    if (write.updates[i] != 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("table ", spec.name, ", key ", write.keys[i],
                                                   ": a row that exists has 1 update at least"));
  }
  return CheckValues(spec, write.keys, write.rows, RowFloats(spec), kMaxFloat);
}

absl::Status CheckUnique(std::span<const TableSpec> tables, std::span<const TableKeys> requests) {
  absl::flat_hash_set<std::pair<uint32_t, uint64_t>> seen;
  for (const TableKeys& request : requests) {
    SAVIOR_RETURN_IF_ERROR(CheckTable(tables, request.table));
    for (const uint64_t key : request.keys) {
      if (seen.emplace(request.table, key).second) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("table ", tables[request.table].name, ", key ", key, ": twice in one call"));
    }
  }
  return absl::OkStatus();
}

}  // namespace savior
