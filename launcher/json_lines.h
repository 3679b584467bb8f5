// A file of JSON lines that people follow with tail -f.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/status.h"

namespace savior {

// Appends. Single-threaded.
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
