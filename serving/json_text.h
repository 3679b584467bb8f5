// JSON from strangers as a tree (as a stream: serving/json_cursor.h): parsed strictly, with bounds
// on what it may cost, and read with errors that say where. All functions are pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

// Far above what a request needs (a request of 1,000 candidates with vectors of 1,024: 1.1 million
// values in 5,000 lists and objects), and low enough that no body of 8 MiB becomes gigabytes.
struct JsonLimits {
  int depth = 8;                 // of lists and objects, the outermost counted
  int64_t containers = 200'000;  // lists and objects
  int64_t values = 4'000'000;    // numbers, strings, true, false, null
};

// `text`, which must be one JSON object (RFC 8259, UTF-8; no NaN, comment or trailing comma)
// without a key twice in the same object. kInvalidArgument says what is wrong and at which byte.
[[nodiscard]] absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text,
                                                             const JsonLimits& limits = {});

// For messages: "a string", "a list", "-3", "1.5", ...
std::string DescribeJson(const nlohmann::json& value);

// `text` as a JSON string, quotes included; bytes that are not UTF-8 become U+FFFD.
std::string JsonString(std::string_view text);

// `text` for a message: at most 60 bytes of it.
std::string Clip(std::string_view text);

// "`path`: `found`, must be `wanted`", kInvalidArgument.
absl::Status JsonError(std::string_view path, std::string_view found, std::string_view wanted);

// "candidates[3]" + "listed_at" -> "candidates[3].listed_at"; "" + "user" -> "user".
std::string JsonPath(std::string_view parent, std::string_view key);
std::string JsonPath(std::string_view parent, size_t index);

// The value at `path`, which must be an integer >= 0 ("an integer (unix seconds)": `wanted`).
[[nodiscard]] absl::StatusOr<uint64_t> ReadUnsigned(const nlohmann::json& value,
                                                    std::string_view path, std::string_view wanted);
// The same, and at most 2^63 - 1.
[[nodiscard]] absl::StatusOr<int64_t> ReadCount(const nlohmann::json& value, std::string_view path,
                                                std::string_view wanted);
// A number; it is finite, since JSON has no others.
[[nodiscard]] absl::StatusOr<double> ReadNumber(const nlohmann::json& value, std::string_view path);
[[nodiscard]] absl::StatusOr<std::string> ReadString(const nlohmann::json& value,
                                                     std::string_view path);
// Numbers that are finite as float32.
[[nodiscard]] absl::StatusOr<std::vector<float>> ReadFloats(const nlohmann::json& value,
                                                            std::string_view path);

// That `value` is an object whose keys are all in `known` ({} = any key).
[[nodiscard]] absl::Status CheckKeys(const nlohmann::json& value, std::string_view path,
                                     const std::vector<std::string>& known);
[[nodiscard]] absl::Status CheckList(const nlohmann::json& value, std::string_view path,
                                     std::string_view of);

}  // namespace savior
