// Damages databases, for tests.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace savior {

inline std::filesystem::path LargestTableFile(const std::filesystem::path& folder) {
  std::filesystem::path largest;
  uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".sst" || entry.file_size() < bytes) continue;
    largest = entry.path();
    bytes = entry.file_size();
  }
  EXPECT_FALSE(largest.empty()) << folder;
  return largest;
}

// Flips a bit in every 512th byte of the first three quarters of the largest table file below
// `folder`: all data blocks, not the footer. Returns the file.
inline std::filesystem::path FlipBytes(const std::filesystem::path& folder) {
  std::filesystem::path path = LargestTableFile(folder);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto end = static_cast<std::streamoff>(std::filesystem::file_size(path) * 3 / 4);
  for (std::streamoff offset = 100; offset < end; offset += 512) {
    file.seekg(offset);
    const int byte = file.get();
    file.seekp(offset);
    file.put(static_cast<char>(byte ^ 4));
  }
  EXPECT_TRUE(file.good());
  return path;
}

}  // namespace savior
