#include "worker/data/spill.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace savior {
namespace {

absl::Status SystemError(const std::filesystem::path& path) {
  const int error = errno;
  const std::string message = path.string() + ": " + std::strerror(error);
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return absl::FailedPreconditionError(message);
}

}  // namespace

Spill::Spill(std::filesystem::path path, int64_t record_bytes, int64_t memory_bytes)
    : path_(std::move(path)), record_bytes_(record_bytes), memory_bytes_(memory_bytes) {}

Spill::~Spill() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(path_.c_str());
}

absl::Status Spill::Append(int64_t partition, const void* record) {
  if (last_ == nullptr || partition != last_number_) {
    auto& slot = partitions_[partition];
    if (slot == nullptr) slot = std::make_unique<Partition>();
    last_ = slot.get();
    last_number_ = partition;
  }
  std::vector<char>& buffer = last_->buffer;
  const size_t before = buffer.capacity();
  const char* bytes = static_cast<const char*>(record);
  buffer.insert(buffer.end(), bytes, bytes + record_bytes_);
  held_ += static_cast<int64_t>(buffer.capacity() - before);
  return held_ < memory_bytes_ ? absl::OkStatus() : Flush();
}

absl::Status Spill::Flush() {
  if (held_ == 0) return absl::OkStatus();
  SAVIOR_RETURN_IF_ERROR(OpenFile());
  for (const int64_t number : Partitions()) {  // ascending: the file is a function of the input
    Partition& partition = *partitions_[number];
    std::vector<char> buffer = std::exchange(partition.buffer, {});
    const auto size = static_cast<int64_t>(buffer.size());
    if (size == 0) continue;
    for (int64_t done = 0; done < size;) {
      const ssize_t written =
          pwrite(fd_, buffer.data() + done, static_cast<size_t>(size - done), file_bytes_ + done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return SystemError(path_);
      done += written;
    }
    partition.segments.push_back({.offset = file_bytes_, .size = size});
    file_bytes_ += size;
  }
  held_ = 0;
  return absl::OkStatus();
}

std::vector<int64_t> Spill::Partitions() const {
  std::vector<int64_t> numbers;
  numbers.reserve(partitions_.size());
  for (const auto& [number, partition] : partitions_) numbers.push_back(number);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

absl::StatusOr<std::vector<char>> Spill::Take(int64_t partition) {
  const auto found = partitions_.find(partition);
  if (found == partitions_.end()) return std::vector<char>();
  const std::unique_ptr<Partition> taken = std::move(found->second);
  partitions_.erase(found);
  last_ = nullptr;
  held_ -= static_cast<int64_t>(taken->buffer.capacity());
  if (taken->segments.empty()) return std::move(taken->buffer);

  size_t total = taken->buffer.size();
  for (const Segment& segment : taken->segments) total += static_cast<size_t>(segment.size);
  std::vector<char> records(total);
  char* out = records.data();
  for (const Segment& segment : taken->segments) {
    for (int64_t done = 0; done < segment.size;) {
      const ssize_t got =
          pread(fd_, out, static_cast<size_t>(segment.size - done), segment.offset + done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return SystemError(path_);
      if (got == 0) return absl::DataLossError(path_.string() + ": shorter than what was written");
      done += got;
      out += got;
    }
  }
  std::copy(taken->buffer.begin(), taken->buffer.end(), out);
  return records;
}

absl::Status Spill::OpenFile() {
  if (fd_ >= 0) return absl::OkStatus();
  fd_ = open(path_.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644);
  return fd_ >= 0 ? absl::OkStatus() : SystemError(path_);
}

}  // namespace savior
