#include "ps/checkpoint_place.h"

#include <absl/strings/str_cat.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <vector>

#include "common/files.h"
#include "ps/restore.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<dev_t> FileSystemOf(const fs::path& path) {
  struct stat s = {};
  if (::stat(path.c_str(), &s) != 0) {
    return SystemError(errno, absl::StrCat("looking at ", path.string()));
  }
  return s.st_dev;
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// The errno of what failed, or 0. (std::filesystem's copy calls a full disk an I/O error.)
int CopyAndSync(const fs::path& from, const fs::path& to) {
  const Descriptor in(from, O_RDONLY);
  const Descriptor out(to, O_WRONLY | O_CREAT | O_EXCL);
  if (in.get() < 0 || out.get() < 0) return errno;
  std::vector<char> slice(size_t{1} << 20);
  while (true) {
    const ssize_t n = ::read(in.get(), slice.data(), slice.size());
    if (n == 0) break;
    if (n < 0 && errno != EINTR) return errno;
    for (ssize_t done = 0; done < n;) {
      const ssize_t written =
          ::write(out.get(), slice.data() + done, static_cast<size_t>(n - done));
      if (written < 0 && errno != EINTR) return errno;
      done += std::max<ssize_t>(written, 0);
    }
  }
  return ::fsync(out.get()) == 0 ? 0 : errno;
}

absl::Status CopyDurably(const fs::path& from, const fs::path& to) {
  const int error = CopyAndSync(from, to);
  return error == 0
             ? absl::OkStatus()
             : SystemError(error, absl::StrCat("copying ", from.string(), " to ", to.string()));
}

// A table file of the checkpoint that lies beside the live database.
absl::Status BringTable(const fs::path& from, const CheckpointPlace& place, DigestCache* digests) {
  const fs::path to = place.folder / from.filename();
  SAVIOR_ASSIGN_OR_RETURN(const std::string digest, digests->Of(from));
  const fs::path earlier = place.base / from.filename();
  std::error_code error;
  if (!place.base.empty() && fs::exists(earlier, error)) {
    // Numbers of files are used again after a restart from an older commit: the name says little.
    SAVIOR_ASSIGN_OR_RETURN(const std::string before, digests->Of(earlier));
    if (before == digest && fs::file_size(earlier, error) == fs::file_size(from, error)) {
      fs::create_hard_link(earlier, to, error);
      if (!error) return absl::OkStatus();  // else a file system without links
    }
  }
  SAVIOR_RETURN_IF_ERROR(CopyDurably(from, to));
  digests->Add(to, digest);
  return absl::OkStatus();
}

absl::Status Bring(const fs::path& local, const CheckpointPlace& place, DigestCache* digests) {
  std::error_code error;
  if (!fs::create_directory(place.folder, error)) {
    return SystemError(error ? error.value() : EEXIST,
                       absl::StrCat("making ", place.folder.string()));
  }
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(local, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    files.push_back(entry->path());
  }
  if (error) return SystemError(error.value(), absl::StrCat("listing ", local.string()));
  for (const fs::path& file : files) {
    SAVIOR_RETURN_IF_ERROR(file.extension() == ".sst"
                               ? BringTable(file, place, digests)
                               : CopyDurably(file, place.folder / file.filename()));
  }
  return SyncFolder(place.folder);
}

}  // namespace

CheckpointPlace PlaceOfShard(const CheckpointPlace& all, uint32_t shard) {
  return {.folder = all.folder / ShardFolder(shard),
          .base = all.base.empty() ? fs::path() : all.base / ShardFolder(shard)};
}

absl::Status TakeCheckpoint(ColdStore* store, const fs::path& live, const CheckpointPlace& place,
                            DigestCache* digests) {
  const fs::path parent = place.folder.parent_path();
  std::error_code error;
  fs::create_directories(parent, error);
  if (error) return SystemError(error.value(), absl::StrCat("making ", parent.string()));
  SAVIOR_ASSIGN_OR_RETURN(const dev_t here, FileSystemOf(live));
  SAVIOR_ASSIGN_OR_RETURN(const dev_t there, FileSystemOf(parent));
  if (here == there) return store->Checkpoint(place.folder);
  const fs::path local = live.string() + ".checkpoint";
  SAVIOR_RETURN_IF_ERROR(RemoveAll(local));  // of a process that was killed
  absl::Status status = store->Checkpoint(local);
  if (status.ok()) status = Bring(local, place, digests);
  status.Update(RemoveAll(local));
  return status;
}

}  // namespace savior
