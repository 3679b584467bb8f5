// Messages between processes of an MPI job that are under way at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/mpi_world.h"

namespace savior {

// Single-threaded; threads with transfers of their own may run beside each other.
//
// Between two processes messages of one tag arrive in the order in which they were sent, and go to
// receptions in the order in which those were started. Both sides know the size.
class MpiTransfers {
 public:
  // MPI counts in ints: longer messages go in pieces, of the same size on both sides.
  static constexpr size_t kPieceBytes = size_t{1} << 30;

  // `world` outlives this. 1 <= piece_bytes < 2^31.
  explicit MpiTransfers(MpiWorld* world, size_t piece_bytes = kPieceBytes);
  // What is still under way then can touch its bytes until the process ends: their owners are kept.
  ~MpiTransfers();
  MpiTransfers(const MpiTransfers&) = delete;
  MpiTransfers& operator=(const MpiTransfers&) = delete;

  // Begins to send `bytes` to, or to fill them from, process `peer` of the world. `owner` keeps
  // them alive; nobody else writes them (Send) or touches them (Receive) until Poll has seen the
  // end. No bytes: a message, too.
  void Send(uint32_t peer, int tag, std::span<const std::byte> bytes,
            std::shared_ptr<const void> owner);
  void Receive(uint32_t peer, int tag, std::span<std::byte> bytes,
               std::shared_ptr<const void> owner);

  // Looks which have ended; does not wait. Returns whether any has. kUnavailable: MPI's error;
  // kFailedPrecondition: a message was shorter or longer than its reception.
  [[nodiscard]] absl::StatusOr<bool> Poll();
  bool done() const { return under_way_ == 0; }

  // Peers from which, or without any such to which, something is still under way; ascending.
  std::vector<uint32_t> MissingPeers() const;

 private:
  struct Requests;  // MPI's
  struct Transfer {
    uint32_t peer = 0;
    bool receives = false;
    size_t size = 0;
    std::shared_ptr<const void> owner;
  };
  void Start(uint32_t peer, int tag, std::byte* bytes, size_t size, bool receives,
             std::shared_ptr<const void> owner);

  MpiWorld* const world_;
  const size_t piece_bytes_;
  const std::unique_ptr<Requests> requests_;
  std::vector<Transfer> transfers_;  // one per request
  size_t under_way_ = 0;
  absl::Status started_;  // the first error of starting
};

// Lets MPI move messages that were sent but have not left yet. Costs microseconds.
void MakeMpiProgress(MpiWorld& world);

// The sleeps between polls: short while things move, so that little is lost, and longer when they
// do not, so that a waiting process leaves its core to others.
class BackOff {
 public:
  explicit BackOff(std::chrono::microseconds most) : most_(most) {}
  void Reset() { next_ = kLeast; }
  // Sleeps, but not beyond `deadline`.
  void Wait(Deadline deadline);

 private:
  static constexpr std::chrono::microseconds kLeast{5};
  const std::chrono::microseconds most_;
  std::chrono::microseconds next_ = kLeast;
};

// "2, 5 and 7".
std::string NamesOf(const std::vector<uint32_t>& numbers);

}  // namespace savior
