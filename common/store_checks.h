// What every store refuses before it touches a row. All errors are kInvalidArgument and name the
// table, and the key where there is one.
#pragma once

#include <cstdint>
#include <span>

#include "common/status.h"
#include "common/store.h"

namespace savior {

// Steps are stored in 32 bits.
inline constexpr int64_t kMaxPushStep = 0xffffffff;

[[nodiscard]] absl::Status CheckTable(std::span<const TableSpec> tables, uint32_t table);
[[nodiscard]] absl::Status CheckStep(int64_t step);
[[nodiscard]] absl::Status CheckPull(std::span<const TableSpec> tables, const TablePull& pull);
// Gradients must be finite, unless the table skips those that are not.
[[nodiscard]] absl::Status CheckPush(std::span<const TableSpec> tables, const TablePush& push);
// Values must be finite, and fit the table's type.
[[nodiscard]] absl::Status CheckPut(std::span<const TableSpec> tables, const TablePut& put);
// Frozen tables have no whole rows.
[[nodiscard]] absl::Status CheckHasWholeRows(const TableSpec& spec);
[[nodiscard]] absl::Status CheckRead(std::span<const TableSpec> tables, const TableRead& read);
// Values must be finite, and update counts at least 1.
[[nodiscard]] absl::Status CheckWrite(std::span<const TableSpec> tables, const TableWrite& write);
// Keys must be unique: over all requests of one table, as these may be served in any order.
[[nodiscard]] absl::Status CheckUnique(std::span<const TableSpec> tables,
                                       std::span<const TableKeys> requests);

}  // namespace savior
