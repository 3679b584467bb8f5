// The schema of a training log as JSON: in its manifest, and in serving bundles.
#pragma once

#include <nlohmann/json.hpp>

#include "worker/data/training_log.h"

namespace savior {

// Same schema, same text.
nlohmann::json SchemaToJson(const LogSchema& schema);
// Throws nlohmann::json::exception on anything else.
LogSchema SchemaFromJson(const nlohmann::json& json);

}  // namespace savior
