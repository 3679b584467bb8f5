#include "common/file_calls.h"

#include <unistd.h>

#include <atomic>

namespace savior {
namespace {

#ifndef SAVIOR_NO_FAILPOINTS
std::atomic<FileCalls*> replaced = nullptr;
#endif

}  // namespace

ssize_t FileCalls::Read(const std::filesystem::path& /*path*/, int fd, void* to, size_t bytes) {
  return ::read(fd, to, bytes);
}

ssize_t FileCalls::Write(const std::filesystem::path& /*path*/, int fd, const void* from,
                         size_t bytes) {
  return ::write(fd, from, bytes);
}

int FileCalls::Sync(const std::filesystem::path& /*path*/, int fd) { return ::fsync(fd); }

FileCalls& CurrentFileCalls() {
  static FileCalls system;
#ifndef SAVIOR_NO_FAILPOINTS
  if (FileCalls* const calls = replaced.load(); calls != nullptr) return *calls;
#endif
  return system;
}

#ifndef SAVIOR_NO_FAILPOINTS
void UseFileCalls(FileCalls* calls) { replaced = calls; }
#endif

}  // namespace savior
