// Durable file operations and digests. All functions are thread-safe; errors name the path and the
// system's reason, and a full disk is kResourceExhausted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "common/status.h"

namespace savior {

// "`what`: No space left on device" for errno `error`; what the caller can do about it decides the
// code (common/status.h).
absl::Status SystemError(int error, const std::string& what);

[[nodiscard]] absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path);

// Replaces `path` by `bytes` atomically and durably: temporary file, fsync, rename, fsync of the
// folder. A reader, or a crash at any instant, sees the old file or the new one.
[[nodiscard]] absl::Status WriteFileAtomically(const std::filesystem::path& path,
                                               const std::string& bytes);

// Makes `path` hold `bytes`, neither atomically nor durably: for files of a folder that
// PublishFolder makes durable as a whole, where a sync of each would cost milliseconds.
[[nodiscard]] absl::Status WriteFile(const std::filesystem::path& path, const std::string& bytes);

// Copies a file; durable, but for its name (SyncFolder). `to` must not exist; after an error a part
// of it may be there.
[[nodiscard]] absl::Status CopyDurably(const std::filesystem::path& from,
                                       const std::filesystem::path& to);

// fsync of every file and folder below `folder`, then an atomic rename to `target` (which must not
// exist) and fsync of target's parent.
[[nodiscard]] absl::Status PublishFolder(const std::filesystem::path& folder,
                                         const std::filesystem::path& target);

// fsync of a folder: names made, changed or deleted in it are durable.
[[nodiscard]] absl::Status SyncFolder(const std::filesystem::path& folder);

// mkdir -p, durable, with a probe that it can be written to. kFailedPrecondition names it if not.
[[nodiscard]] absl::Status MakeWritableFolder(const std::filesystem::path& folder);

// rm -r of a folder or file; a missing one is OK.
[[nodiscard]] absl::Status RemoveAll(const std::filesystem::path& path);

// XXH3-128 of a file's bytes as 32 hex digits, read in slices.
[[nodiscard]] absl::StatusOr<std::string> DigestFile(const std::filesystem::path& path);
std::string DigestBytes(std::span<const char> bytes);

// An exclusive advisory lock on `path` (created if need be), held until destruction; dies with the
// process, so nothing stale is left behind. Does not block: kFailedPrecondition names the path and
// the holder's pid.
class FileLock {
 public:
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<FileLock>> Take(
      const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace savior
