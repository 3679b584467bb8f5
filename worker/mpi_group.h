// Processes of an MPI job that do something together: all, or those of one role.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "worker/group.h"
#include "worker/mpi_transfers.h"
#include "worker/mpi_world.h"

namespace savior {

// A group is a list of processes and a number that its messages carry: making one takes no
// collective call of MPI, which could wait for ever. Members talk to each other directly, so each
// knows by itself who is missing; that is N - 1 messages per member, for groups of hundreds.
class MpiGroup final : public Group {
 public:
  // All processes of the job, by their ranks in it. Once per job. `world` outlives all groups.
  static std::unique_ptr<MpiGroup> World(MpiWorld* world);

  // Members with the same color become a group, ordered by key, then by rank here. Called by all
  // members of this group; errors as of Allgather.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<MpiGroup>> Split(uint32_t color, uint32_t key,
                                                                Deadline deadline);

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return static_cast<uint32_t>(members_.size()); }
  // Sleeps up to 1 ms at a time. Errors name ranks of this group, and the ranks of the job where
  // they differ.
  absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine,
                                                     Deadline deadline) override;
  absl::StatusOr<std::vector<std::string>> Alltoall(std::vector<std::string> mine,
                                                    Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<Group>> Fork(const std::atomic<bool>* give_up,
                                              Deadline deadline) override;

  // Longer gifts go in pieces of this size. For tests: all members set the same, between calls.
  void set_piece_bytes(size_t bytes) { piece_bytes_ = bytes; }
  size_t piece_bytes() const { return piece_bytes_; }

  MpiWorld& world() const { return *world_; }
  const std::vector<uint32_t>& members() const { return members_; }  // ranks in the world, by rank
  // Tag `n` < kTags of this group's messages; 0 is its own.
  int tag(int n) const { return static_cast<int>(context_) * kTags + n; }
  // "2 and 3 (5 and 6 of the job)" of ranks in the world.
  std::string Describe(const std::vector<uint32_t>& world_ranks) const;

  static constexpr int kTags = 4;

 private:
  MpiGroup(MpiWorld* world, uint32_t context, std::vector<uint32_t> members);

  MpiWorld* const world_;
  const uint32_t context_;
  const std::vector<uint32_t> members_;
  uint32_t rank_ = 0;
  size_t piece_bytes_ = MpiTransfers::kPieceBytes;
  // `mine`: one for each member, or one for all.
  absl::StatusOr<std::vector<std::string>> Exchange(std::vector<std::string> mine,
                                                    Deadline deadline);

  const std::atomic<bool>* give_up_ = nullptr;
  absl::Status failed_;  // the first error; nothing can be done together after it
};

}  // namespace savior
