#include "worker/mpi_world.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>
#include <mpi.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <thread>

namespace savior {
namespace {

constexpr int kExitTimedOut = 75;  // EX_TEMPFAIL: try again
constexpr std::chrono::minutes kGoodbye{5};

// Ends the process unless it is destroyed before the deadline.
class Watchdog {
 public:
  Watchdog(Deadline deadline, const char* what)
      : thread_([this, deadline, what] { Watch(deadline, what); }) {}
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

 private:
  void Watch(Deadline deadline, const char* what) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_until(lock, deadline, [this] { return done_; })) return;
    LOG(ERROR) << "not all processes of the MPI job have " << what << " in time: giving up";
    google::FlushLogFiles(google::INFO);
    _exit(kExitTimedOut);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace

bool MpiWorld::LaunchedByMpi() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
}

absl::StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Open(Deadline deadline) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised != 0) {
    return absl::FailedPreconditionError("a process can join its MPI job only once");
  }
  int provided = MPI_THREAD_SINGLE;
  {
    const Watchdog watchdog(deadline, "started");
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) {
      return absl::UnavailableError("MPI_Init_thread failed");
    }
  }
  std::unique_ptr<MpiWorld> world(new MpiWorld);
  if (provided < MPI_THREAD_SERIALIZED) {
    return absl::FailedPreconditionError(absl::StrCat("this MPI offers thread level ", provided,
                                                      ", MPI_THREAD_SERIALIZED is needed"));
  }
  // Errors come back as codes, not as the end of the process.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  world->rank_ = static_cast<uint32_t>(rank);
  world->size_ = static_cast<uint32_t>(size);
  return world;
}

MpiWorld::~MpiWorld() {
  const Watchdog watchdog(DeadlineIn(kGoodbye), "left");
  const std::lock_guard lock(mutex_);
  MPI_Finalize();
}

void MpiWorld::Abort(int code) {
  google::FlushLogFiles(google::INFO);
  // Without the mutex: whoever holds it may never let go.
  MPI_Abort(MPI_COMM_WORLD, code);
  _exit(code);
}

}  // namespace savior
