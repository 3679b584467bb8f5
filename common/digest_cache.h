// Digests of files, each read once.
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

// Knows a file, under all of its names, by file system, inode, size and time of its last write;
// without links also by the time of its last change, which nobody can set back. What rots on the
// disk under an unchanged file is found at the first reading only. Thread-safe.
class DigestCache {
 public:
  // Whether the files may get other names (hard links) and lose some meanwhile: that is a change.
  enum class Links { kSome, kNone };

  explicit DigestCache(Links links = Links::kSome) : links_(links) {}

  // As DigestFile, but reads a file only once.
  [[nodiscard]] absl::StatusOr<std::string> Of(const std::filesystem::path& path);
  // The file's digest is known from elsewhere. A file that is not there is passed over.
  void Add(const std::filesystem::path& path, const std::string& digest);
  // Of files that had to be read so far.
  uint64_t bytes_read() const;

 private:
  using Identity = std::array<uint64_t, 7>;
  absl::StatusOr<Identity> IdentityOf(const std::filesystem::path& path) const;
  void Remember(const Identity& identity, const std::string& digest);  // under mutex_

  const Links links_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<Identity, std::string> digests_;
  uint64_t bytes_read_ = 0;
};

}  // namespace savior
