#include "ps/checkpoint_place.h"

#include <absl/strings/str_cat.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>
#include <vector>

#include "common/failpoint.h"
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
      SAVIOR_FAILPOINT("copy.before_link");
      fs::create_hard_link(earlier, to, error);
      if (!error) return absl::OkStatus();  // else a file system without links
    }
  }
  SAVIOR_RETURN_IF_ERROR(CopyDurably(from, to));
  digests->Add(to, digest);
  return absl::OkStatus();
}

absl::Status Bring(const fs::path& local, const CheckpointPlace& place, DigestCache* digests) {
  SAVIOR_FAILPOINT("copy.before_files");
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
  SAVIOR_FAILPOINT("copy.before_folder_sync");
  SAVIOR_RETURN_IF_ERROR(SyncFolder(place.folder));
  SAVIOR_FAILPOINT("copy.before_removal");
  return absl::OkStatus();
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
