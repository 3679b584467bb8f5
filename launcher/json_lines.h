// A file of JSON lines that people follow with tail -f: metrics.jsonl, refresh.jsonl.
//
// What is behind the last newline is the beginning of a line that was being written when its writer
// or the machine died. It is no damage: readers do not see it, and who writes on takes it away.
// Anything else that is not a JSON object is damage, and said.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

// kDataLoss: line `line`, from 1 on, of `path` is damaged.
absl::Status DamagedLine(const std::filesystem::path& path, int64_t line);

// All lines of a file that is short. A missing file has none. kDataLoss names file and line.
[[nodiscard]] absl::StatusOr<std::vector<nlohmann::ordered_json>> ReadJsonLines(
    const std::filesystem::path& path);

// Appends. Single-threaded; one writer at a time.
class JsonLines {
 public:
  explicit JsonLines(std::filesystem::path path);

  bool writable() const { return file_.good(); }
  // kResourceExhausted: it cannot be written; what was there is as before, and later lines may be.
  [[nodiscard]] absl::Status Add(const nlohmann::ordered_json& line);

 private:
  const std::filesystem::path path_;
  std::ofstream file_;
  uintmax_t bytes_;  // of its whole lines
};

}  // namespace savior
