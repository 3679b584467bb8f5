// What a disk holds after a power failure: files cut back to what was synced of them, and folders
// with the names that they had when they were synced.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "common/random.h"
#include "tests/common/temp_folder.h"

namespace savior {

// Knows a tree by the syncs of its files and folders alone, each named by its inode; so renames and
// deletions need no notice. Bytes that were synced are kept by links of our own: they outlive
// their names. `root` lies on a file system that does not use inode numbers again soon (a tmpfs).
// Thread-safe.
class SyncedTree {
 public:
  // Takes what is below `root` now as synced. `kept` is on the same file system, outside `root`.
  SyncedTree(std::filesystem::path root, std::filesystem::path kept);

  // What `path`, a file or folder, holds now: durable once a sync that begins now has succeeded.
  // Other paths than those below `root` are ignored.
  struct Look {
    ino_t inode = 0;
    bool folder = false;
    uint64_t bytes = 0;
    std::map<std::string, ino_t> names = {};
  };
  Look LookAt(const std::filesystem::path& path) const;
  void Synced(const Look& look);

  // Makes `to` what the disk would hold if power failed now. Without `coin` all that was not synced
  // is gone. With it, it is there by chance, for each file a part of it and for each folder all:
  // the disk may have been faster than it had to be.
  void PowerCut(const std::filesystem::path& to, Random* coin) const;

 private:
  struct Cut;  // a PowerCut under way

  const std::filesystem::path root_, kept_;
  mutable std::mutex mutex_;
  std::map<ino_t, uint64_t> files_;                        // bytes synced
  std::map<ino_t, std::map<std::string, ino_t>> folders_;  // names synced
};

}  // namespace savior
