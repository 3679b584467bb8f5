// Digests of files that are never changed in place, each read once.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "common/status.h"

namespace savior {

// Knows a file by what stays the same under all of its names: file system, inode, size and time of
// the last change. Thread-safe.
class DigestCache {
 public:
  // As DigestFile, but reads a file only once.
  [[nodiscard]] absl::StatusOr<std::string> Of(const std::filesystem::path& path);
  // The file's digest is known from elsewhere. A file that is not there is passed over.
  void Add(const std::filesystem::path& path, const std::string& digest);
  // Files that had to be read so far.
  uint64_t read() const;

 private:
  using Identity = std::array<uint64_t, 5>;
  static absl::StatusOr<Identity> IdentityOf(const std::filesystem::path& path);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<Identity, std::string> digests_;
  uint64_t read_ = 0;
};

}  // namespace savior
