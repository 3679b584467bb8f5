// What a list of tables must be like.
#pragma once

#include <span>

#include "common/status.h"
#include "common/store.h"

namespace savior {

// kInvalidArgument names the table and the rule (common/store.h) that it breaks.
[[nodiscard]] absl::Status ValidateTables(std::span<const TableSpec> tables);

}  // namespace savior
