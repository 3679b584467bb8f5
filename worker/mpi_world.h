// This process as a member of an MPI job. MPI itself is in mpi_world.cc and mpi_transfers.cc only:
// its C API, point-to-point messages and nothing else, so that every wait can end.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

#include "common/clock.h"
#include "common/status.h"

namespace savior {

// One per process, alive as long as anything that communicates. Thread-safe.
class MpiWorld {
 public:
  // Whether a launcher (mpirun, srun) started this process as one of a job: from the environment,
  // without touching MPI.
  static bool LaunchedByMpi();

  // Joins the job. Blocks until all of its processes do, which MPI can neither time nor give up: at
  // the deadline the process says so and ends with exit code 75, and the launcher ends the others.
  // kFailedPrecondition: MPI cannot be used by several threads, or was joined before.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MpiWorld>> Open(Deadline deadline);

  // Leaves the job; waits for the others to leave, so only where all went well. Abort() elsewhere.
  // MPI cannot give that up either: after five minutes the process ends with exit code 75.
  ~MpiWorld();
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  uint32_t rank() const { return rank_; }
  uint32_t size() const { return size_; }

  // Ends all processes of the job; the launcher returns `code`, or another one that is not 0.
  [[noreturn]] void Abort(int code);

  // Held by every call of MPI. It is initialised for threads that take turns.
  std::mutex& mutex() { return mutex_; }

  // Numbers that keep the messages of one group apart from those of others (MpiGroup).
  uint32_t next_context() const { return next_context_; }
  void set_next_context(uint32_t next) { next_context_ = next; }

 private:
  MpiWorld() = default;

  std::mutex mutex_;
  uint32_t rank_ = 0, size_ = 1;
  uint32_t next_context_ = 1;
};

}  // namespace savior
