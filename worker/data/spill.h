// Records of one width, sorted into numbered partitions within a memory budget.
//
// Records are appended to their partition's buffer; when the buffers together reach the budget all
// of them move to one file, each as a segment. A partition reads back as its segments and then its
// buffer: the order of appending.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"

namespace savior {

// Single-threaded.
class Spill {
 public:
  // `path` is created with the first spilled byte and removed by the destructor. Budget and width
  // are > 0.
  Spill(std::filesystem::path path, int64_t record_bytes, int64_t memory_bytes);
  ~Spill();
  Spill(const Spill&) = delete;
  Spill& operator=(const Spill&) = delete;

  // Appends one record [record_bytes]. kResourceExhausted: disk full.
  [[nodiscard]] absl::Status Append(int64_t partition, const void* record);

  // Moves the buffers to the file, so that others may use the memory.
  [[nodiscard]] absl::Status Flush();

  // Partitions with records, ascending.
  std::vector<int64_t> Partitions() const;

  // The records of `partition` [n * record_bytes], which is then empty.
  [[nodiscard]] absl::StatusOr<std::vector<char>> Take(int64_t partition);

 private:
  struct Segment {
    int64_t offset = 0;  // bytes
    int64_t size = 0;    // bytes
  };
  struct Partition {
    std::vector<Segment> segments;
    std::vector<char> buffer;
  };

  absl::Status OpenFile();

  const std::filesystem::path path_;
  const int64_t record_bytes_;
  const int64_t memory_bytes_;

  // Behind pointers, so that `last_` survives a rehash.
  absl::flat_hash_map<int64_t, std::unique_ptr<Partition>> partitions_;
  int64_t last_number_ = 0;
  Partition* last_ = nullptr;  // partition `last_number_`
  int64_t held_ = 0;           // bytes of capacity of all buffers
  int fd_ = -1;
  int64_t file_bytes_ = 0;
};

}  // namespace savior
