// All users' behaviours, mapped: users.arrow and timelines-*.arrow of a training log.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/data/arrow_files.h"
#include "worker/data/training_log.h"

namespace savior {

// Thread-safe: immutable. 8 bytes of RAM per user; the rest is mapped.
class Timelines {
 public:
  // `first_users`: the first user number of each part, as in the manifest. kDataLoss names the
  // file.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Timelines>> Open(
      const std::filesystem::path& folder, const std::vector<int64_t>& first_users);

  int64_t users() const { return static_cast<int64_t>(user_ids_.size()); }
  int64_t behaviours() const { return begins_.back(); }
  std::span<const int64_t> user_ids() const { return user_ids_; }  // [users] ascending

  // 0 <= user < users().
  Timeline Of(int64_t user) const;

 private:
  struct Part {
    int64_t begin = 0;  // its first behaviour, counted over all parts
    Timeline behaviours;
    std::shared_ptr<arrow::RecordBatch> mapping;
  };

  Timelines() = default;
  absl::Status OpenPart(const std::filesystem::path& path, int64_t begin, int64_t end);

  std::shared_ptr<arrow::RecordBatch> users_;  // keeps user_ids_ mapped
  std::span<const int64_t> user_ids_;
  std::vector<int64_t> begins_;  // [users + 1] first behaviour of each user, over all parts
  std::vector<int64_t> first_users_;
  std::vector<Part> parts_;
};

}  // namespace savior
