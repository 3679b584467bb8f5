#include "common/files.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <future>
#include <system_error>
#include <utility>
#include <vector>

#include "common/failpoint.h"
#include "common/file_calls.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSliceBytes = size_t{1} << 20;

absl::Status FileError(int error, const std::string& doing, const fs::path& path) {
  return SystemError(error, absl::StrCat(doing, " ", path.string()));
}

absl::Status FileError(const std::error_code& error, const std::string& doing,
                       const fs::path& path) {
  return FileError(error.value(), doing, path);
}

// An open file descriptor, closed at the end of its scope.
class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, mode_t mode = 0644)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  bool ok() const { return fd_ >= 0; }
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  // close() with its answer: some file systems report a failed write only here.
  int Close() { return ::close(Release()); }

 private:
  int fd_;
};

// Once, whatever it says: after an error the kernel may have dropped what it could not write, and
// the next fsync would call it done.
absl::Status SyncOpen(const Descriptor& file, const fs::path& path) {
  if (CurrentFileCalls().Sync(path, file.get()) != 0) return FileError(errno, "syncing", path);
  return absl::OkStatus();
}

absl::Status Sync(const fs::path& path, int flags) {
  const Descriptor file(path, O_RDONLY | flags);
  if (!file.ok()) return FileError(errno, "opening", path);
  return SyncOpen(file, path);
}

// Several at a time: each waits for the disk some milliseconds, however small its file.
absl::Status SyncAll(const std::vector<fs::path>& paths, int flags) {
  constexpr size_t kThreads = 8;
  std::atomic<size_t> next = 0;
  const auto sync_some = [&]() -> absl::Status {
    for (size_t i = next++; i < paths.size(); i = next++) {
      SAVIOR_RETURN_IF_ERROR(Sync(paths[i], flags));
    }
    return absl::OkStatus();
  };
  std::vector<std::future<absl::Status>> others;
  for (size_t t = 1; t < std::min(kThreads, paths.size()); ++t) {
    others.push_back(std::async(std::launch::async, sync_some));
  }
  absl::Status status = sync_some();
  for (std::future<absl::Status>& other : others) status.Update(other.get());
  return status;
}

// The folder that holds `path`'s name; "." for a bare name.
fs::path ParentOf(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

absl::Status WriteAll(const Descriptor& file, std::span<const char> bytes, const fs::path& path) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n =
        CurrentFileCalls().Write(path, file.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "writing", path);
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status Write(const fs::path& path, const std::string& bytes, bool sync) {
  Descriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file.ok()) return FileError(errno, "creating", path);
  SAVIOR_RETURN_IF_ERROR(WriteAll(file, bytes, path));
  if (sync) {
    SAVIOR_FAILPOINT("file.before_sync");
    SAVIOR_RETURN_IF_ERROR(SyncOpen(file, path));
  }
  if (file.Close() != 0) return FileError(errno, "closing", path);
  return absl::OkStatus();
}

// mkdir -p, after which every name that was new is durable: a folder that outlives a power failure
// is of no use if the name that leads to it does not.
absl::Status MakeDurably(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> missing;
  for (fs::path path = folder; !fs::exists(path, error) && !error; path = ParentOf(path)) {
    if (path.has_filename()) missing.push_back(path);  // "a/" is "a"
  }
  if (!error) fs::create_directories(folder, error);
  if (error) return FileError(error, "creating", folder);
  for (const fs::path& made : missing) SAVIOR_RETURN_IF_ERROR(Sync(ParentOf(made), O_DIRECTORY));
  return absl::OkStatus();
}

// A name beside `path` that no other process or thread uses.
fs::path TemporaryBeside(const fs::path& path) {
  static std::atomic<uint64_t> counter{0};
  fs::path temporary = path;
  temporary += absl::StrCat(".", ::getpid(), ".", counter.fetch_add(1), ".tmp");
  return temporary;
}

// Reads `file` from its start to its end, in slices.
template <typename TakeSlice>
absl::Status ReadSlices(const fs::path& path, TakeSlice take) {
  const Descriptor file(path, O_RDONLY);
  if (!file.ok()) return FileError(errno, "opening", path);
  std::vector<char> slice(kSliceBytes);
  while (true) {
    const ssize_t n = CurrentFileCalls().Read(path, file.get(), slice.data(), slice.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "reading", path);
    if (n == 0) return absl::OkStatus();
    SAVIOR_RETURN_IF_ERROR(take(std::span<const char>(slice.data(), static_cast<size_t>(n))));
  }
}

std::string Hex(const XXH128_hash_t& hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

absl::Status SystemError(int error, const std::string& what) {
  const std::string message = absl::StrCat(what, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(message);
    case EIO:
      return absl::DataLossError(message);
    default:
      return absl::FailedPreconditionError(message);
  }
}

absl::Status SyncFolder(const fs::path& folder) { return Sync(folder, O_DIRECTORY); }

absl::StatusOr<std::string> ReadFile(const fs::path& path) {
  std::string bytes;
  SAVIOR_RETURN_IF_ERROR(ReadSlices(path, [&](std::span<const char> slice) {
    bytes.append(slice.data(), slice.size());
    return absl::OkStatus();
  }));
  return bytes;
}

absl::Status WriteFileAtomically(const fs::path& path, const std::string& bytes) {
  SAVIOR_FAILPOINT("file.before_write");
  const fs::path temporary = TemporaryBeside(path);
  const auto replace = [&]() -> absl::Status {
    SAVIOR_RETURN_IF_ERROR(Write(temporary, bytes, /*sync=*/true));
    SAVIOR_FAILPOINT("file.before_rename");
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      return FileError(errno, "renaming to", path);
    }
    return absl::OkStatus();
  };
  const absl::Status status = replace();
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return Annotate(status, absl::StrCat("replacing ", path.string()));
  }
  SAVIOR_FAILPOINT("file.after_rename");
  SAVIOR_RETURN_IF_ERROR(SyncFolder(ParentOf(path)));
  SAVIOR_FAILPOINT("file.after_folder_sync");
  return absl::OkStatus();
}

absl::Status CopyDurably(const fs::path& from, const fs::path& to) {
  const auto copy = [&]() -> absl::Status {
    Descriptor out(to, O_WRONLY | O_CREAT | O_EXCL);
    if (!out.ok()) return FileError(errno, "creating", to);
    SAVIOR_RETURN_IF_ERROR(
        ReadSlices(from, [&](std::span<const char> slice) { return WriteAll(out, slice, to); }));
    SAVIOR_FAILPOINT("copy.before_sync");
    SAVIOR_RETURN_IF_ERROR(SyncOpen(out, to));
    return out.Close() == 0 ? absl::OkStatus() : FileError(errno, "closing", to);
  };
  return Annotate(copy(), absl::StrCat("copying ", from.string(), " to ", to.string()));
}

absl::Status WriteFile(const fs::path& path, const std::string& bytes) {
  return Write(path, bytes, /*sync=*/false);
}

absl::Status PublishFolder(const fs::path& folder, const fs::path& target) {
  SAVIOR_FAILPOINT("folder.before_sync");
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  if (error) return FileError(error, "listing", folder);
  std::vector<fs::path> files, folders;
  while (entry != fs::recursive_directory_iterator()) {
    // A symbolic link is a name in its folder, which is synced; what it points at is not ours.
    const fs::file_status kind = entry->symlink_status(error);
    if (error) return FileError(error, "looking at", entry->path());
    if (fs::is_directory(kind)) folders.push_back(entry->path());
    if (fs::is_regular_file(kind)) files.push_back(entry->path());
    entry.increment(error);
    if (error) return FileError(error, "listing", folder);
  }
  folders.push_back(folder);
  SAVIOR_RETURN_IF_ERROR(SyncAll(files, 0));
  SAVIOR_RETURN_IF_ERROR(SyncAll(folders, O_DIRECTORY));
  SAVIOR_FAILPOINT("folder.before_rename");
  // rename() would replace an empty folder and renameat2 is not everywhere: look first. Two
  // publishers of one target are excluded by the run folder's lock.
  if (fs::exists(fs::symlink_status(target, error))) {
    return absl::FailedPreconditionError(absl::StrCat(target.string(), " exists already"));
  }
  if (::rename(folder.c_str(), target.c_str()) != 0) return FileError(errno, "renaming to", target);
  SAVIOR_FAILPOINT("folder.after_rename");
  SAVIOR_RETURN_IF_ERROR(SyncFolder(ParentOf(target)));
  SAVIOR_FAILPOINT("folder.after_folder_sync");
  return absl::OkStatus();
}

absl::Status MakeWritableFolder(const fs::path& folder) {
  const auto refuse = [&](const absl::Status& why) {
    if (absl::IsResourceExhausted(why)) return why;
    return absl::FailedPreconditionError(
        absl::StrCat("folder ", folder.string(), " cannot be written to: ", why.message()));
  };
  if (const absl::Status made = MakeDurably(folder); !made.ok()) return refuse(made);
  const fs::path probe = TemporaryBeside(folder / "probe");
  const absl::Status written = Write(probe, "probe", /*sync=*/true);
  ::unlink(probe.c_str());
  return written.ok() ? written : refuse(written);
}

absl::Status RemoveAll(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? FileError(error, "removing", path) : absl::OkStatus();
}

absl::StatusOr<std::string> DigestFile(const fs::path& path) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  if (state == nullptr) return absl::ResourceExhaustedError("no memory for a digest");
  XXH3_128bits_reset(state.get());
  SAVIOR_RETURN_IF_ERROR(ReadSlices(path, [&](std::span<const char> slice) {
    XXH3_128bits_update(state.get(), slice.data(), slice.size());
    return absl::OkStatus();
  }));
  return Hex(XXH3_128bits_digest(state.get()));
}

std::string DigestBytes(std::span<const char> bytes) {
  return Hex(XXH3_128bits(bytes.data(), bytes.size()));
}

absl::StatusOr<std::unique_ptr<FileLock>> FileLock::Take(const fs::path& path) {
  Descriptor file(path, O_RDWR | O_CREAT);
  if (!file.ok()) return FileError(errno, "opening lock", path);
  // flock, not fcntl: it belongs to this descriptor, so a second Take in one process is refused
  // too, and closing some other descriptor of the file does not drop it.
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return FileError(errno, "locking", path);
    std::array<char, 32> holder{};
    const ssize_t n = ::pread(file.get(), holder.data(), holder.size() - 1, 0);
    return absl::FailedPreconditionError(
        absl::StrCat(path.string(), " is locked by process ", n > 0 ? holder.data() : "(unknown)"));
  }
  // Somebody may have removed the file between our open and our lock: the name stands for another
  // one now, or for none, and a lock on ours excludes nobody.
  struct stat mine = {};
  struct stat named = {};
  if (::fstat(file.get(), &mine) != 0) return FileError(errno, "locking", path);
  if (::stat(path.c_str(), &named) != 0 || mine.st_ino != named.st_ino ||
      mine.st_dev != named.st_dev) {
    return absl::FailedPreconditionError(absl::StrCat(
        path.string(), " was removed by another process while it was being locked: try again"));
  }
  // The pid is for people: the lock holds without it, but a disk too full for it is worth knowing.
  const std::string pid = absl::StrCat(::getpid());
  if (::ftruncate(file.get(), 0) != 0) return FileError(errno, "writing lock", path);
  SAVIOR_RETURN_IF_ERROR(WriteAll(file, pid, path));
  return std::unique_ptr<FileLock>(new FileLock(file.Release()));
}

// The file stays: who removes it (only its holder may) has to know that nobody needs the name.
FileLock::~FileLock() { ::close(fd_); }

}  // namespace savior
