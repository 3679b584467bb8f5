// A folder for working files that nobody needs afterwards.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"

namespace savior {

// Deleted with the object; what cannot be deleted is named in the log. Single-threaded.
class TemporaryFolder {
 public:
  // <system's temporary folder>/savior-<purpose>-<unique>. Errors: SystemError (common/files.h).
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<TemporaryFolder>> Make(
      const std::string& purpose);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  const std::filesystem::path path_;
};

}  // namespace savior
