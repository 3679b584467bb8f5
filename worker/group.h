// Processes that do something together: all of a run, or its workers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace savior {

// Single-threaded. Every method is called by all members, in the same order.
class Group {
 public:
  virtual ~Group() = default;

  virtual uint32_t rank() const = 0;
  virtual uint32_t size() const = 0;

  // What every member gave, by rank. Returns when all have given something, so it is a barrier,
  // too. Any bytes, as many as fit the memory of all (below 1 TiB). kDeadlineExceeded names the
  // ranks that are missing; the group is of no use after it.
  [[nodiscard]] virtual absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine,
                                                                           Deadline deadline) = 0;

  // What every member gave to this one, by rank; mine: [size()], one for each. Otherwise as
  // Allgather, and moves no byte to anybody else. kUnimplemented: this kind of group does not.
  [[nodiscard]] virtual absl::StatusOr<std::vector<std::string>> Alltoall(
      std::vector<std::string> /*mine*/, Deadline /*deadline*/) {
    return absl::UnimplementedError("no exchange in this group");
  }

  // A group of the same members with messages of its own, for another thread of theirs. Whoever
  // waits in it looks at `*give_up` (null: nothing), which outlives it: kCancelled once that is
  // set, and the group is of no use then. kUnimplemented: this kind of group has no others.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<Group>> Fork(
      const std::atomic<bool>* /*give_up*/, Deadline /*deadline*/) {
    return absl::UnimplementedError("no groups for other threads");
  }
};

// One process alone.
class SoloGroup final : public Group {
 public:
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 1; }
  absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine, Deadline) override {
    return std::vector<std::string>{std::string(mine)};
  }
  absl::StatusOr<std::vector<std::string>> Alltoall(std::vector<std::string> mine,
                                                    Deadline) override {
    return mine;
  }
  absl::StatusOr<std::unique_ptr<Group>> Fork(const std::atomic<bool>*, Deadline) override {
    return std::make_unique<SoloGroup>();
  }
};

}  // namespace savior
