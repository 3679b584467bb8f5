// A folder that appears whole or not at all.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/files.h"
#include "common/status.h"

namespace savior {

// Work on `target` is done in `<target>.part`, under a lock on `<target>.lock`, and published by
// rename. Destroyed before Publish, it removes the work. Single-threaded.
class Staging {
 public:
  // Unfinished work of a dead process is removed. A `target` that exists must be empty or hold the
  // file `marker`: kInvalidArgument otherwise, so that nobody's other folder is ever replaced.
  // kFailedPrecondition: somebody else works on it, or it cannot be written.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Staging>> Begin(
      const std::filesystem::path& target, const std::string& marker);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::filesystem::path& work() const { return work_; }

  // Durable when it returns OK. What was at `target` is replaced.
  [[nodiscard]] absl::Status Publish();

 private:
  Staging(std::filesystem::path target, std::filesystem::path work, std::unique_ptr<FileLock> lock);

  const std::filesystem::path target_;
  const std::filesystem::path work_;
  const std::unique_ptr<FileLock> lock_;
  bool published_ = false;
};

}  // namespace savior
