// A file system with little room: a tmpfs, filled and freed at will. Needs root.
#pragma once

#include <gtest/gtest.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/common/temp_folder.h"

namespace savior {

// A file system of its own with little room. Unmounted at the end, so that what uses it goes first.
class SmallDisk {
 public:
  explicit SmallDisk(size_t mib) {
    const std::string size = "size=" + std::to_string(mib) + "m";
    mounted_ = ::mount("savior-test", folder_.path().c_str(), "tmpfs", 0, size.c_str()) == 0;
    if (!mounted_) why_ = std::strerror(errno);
  }
  ~SmallDisk() {
    if (mounted_ && ::umount2(folder_.path().c_str(), MNT_DETACH) != 0) {
      ADD_FAILURE() << "unmounting " << folder_.path() << ": " << std::strerror(errno);
    }
  }

  bool mounted() const { return mounted_; }
  const std::string& why() const { return why_; }
  std::filesystem::path operator/(const std::string& name) const { return folder_ / name; }

  // Leaves at most `bytes` free.
  void Fill(uintmax_t bytes = 0) {
    std::ofstream filler(folder_ / "filler", std::ios::binary | std::ios::app);
    const std::vector<char> zeros(4096);
    while (std::filesystem::space(folder_.path()).available > bytes &&
           filler.write(zeros.data(), static_cast<std::streamsize>(zeros.size())).flush()) {
    }
  }
  void Free() { std::filesystem::remove(folder_ / "filler"); }
  // Frees so many bytes.
  void Free(uintmax_t bytes) {
    const std::filesystem::path filler = folder_ / "filler";
    std::filesystem::resize_file(filler, std::filesystem::file_size(filler) -
                                             std::min(bytes, std::filesystem::file_size(filler)));
  }

 private:
  const TempFolder folder_;
  bool mounted_ = false;
  std::string why_;
};

#define SAVIOR_NEEDS(disk)                                                          \
  if (!(disk).mounted()) {                                                          \
    GTEST_SKIP() << "NOT TESTED: a tmpfs cannot be mounted here: " << (disk).why(); \
  }

}  // namespace savior
