// The system calls by which common/files.h reads, writes and syncs, with a place where tests put
// faults: errors, short writes, a look at what was synced.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <filesystem>

namespace savior {

// As read(2), write(2) and fsync(2), errno included; `path` is what was opened as `fd`.
// Thread-safe.
class FileCalls {
 public:
  virtual ~FileCalls() = default;
  virtual ssize_t Read(const std::filesystem::path& path, int fd, void* to, size_t bytes);
  virtual ssize_t Write(const std::filesystem::path& path, int fd, const void* from, size_t bytes);
  virtual int Sync(const std::filesystem::path& path, int fd);  // of a file or a folder
};

// What common/files.h calls.
FileCalls& CurrentFileCalls();

#ifndef SAVIOR_NO_FAILPOINTS
// For tests: from now on this process calls `calls`, which outlives that; null: the system again.
void UseFileCalls(FileCalls* calls);
#endif

}  // namespace savior
