// Sums dense gradients over the workers of a run by MPI, while the backward pass goes on.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/status.h"
#include "common/value_codec.h"
#include "worker/allreduce.h"
#include "worker/mpi_bucket.h"
#include "worker/mpi_group.h"

namespace savior {

struct MpiAllreduceOptions {
  // kFloat32, or 16 bits with error feedback (worker/mpi_bucket.h). What is fed back is not part of
  // a commit: with 16 bits a resumed run is another run than one never stopped.
  ValueDtype wire = ValueDtype::kFloat32;
  size_t bucket_bytes = size_t{1} << 20;  // longer ranges go in pieces of this many bytes; >= 4
};

// Single-threaded, as Allreduce says. A thread of its own moves the bytes: it polls, with sleeps
// that grow to 1 ms (0.2 ms while somebody waits), and sleeps for good when there is nothing to do.
//
// Ranges of up to kShort values travel as float32 whatever the wire: losses, flags. Residuals
// belong to positions in the sequence of values that are started between two Finish; from the first
// range whose length is not what it was the last time, they are forgotten. With one worker nothing
// is rounded.
class MpiAllreduce final : public Allreduce {
 public:
  static constexpr size_t kShort = 64;

  // Called by all of `workers`, which outlive this; errors as of MpiGroup::Split.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MpiAllreduce>> Create(
      MpiGroup* workers, const MpiAllreduceOptions& options, Deadline deadline);
  // Gives up what was started and not finished.
  ~MpiAllreduce() override;

  uint32_t rank() const override { return group_->rank(); }
  uint32_t size() const override { return group_->size(); }
  // Host memory. Nothing after an error.
  void Start(std::span<float> values) override;
  // kFailedPrecondition: workers started different lengths. After an error the spans are free.
  absl::Status Finish(Deadline deadline) override;

  uint64_t bytes_sent() const override;

 private:
  struct Piece {
    std::span<float> values;
    size_t position = 0;
    ValueDtype wire = ValueDtype::kFloat32;
    bool forget = false;  // residuals from this position on
  };

  struct Residuals {
    std::vector<float> contribution, sum;
  };

  MpiAllreduce(std::unique_ptr<MpiGroup> group, const MpiAllreduceOptions& options);
  void Run();
  std::unique_ptr<MpiBucket> MakeBucket(const Piece& piece);
  absl::StatusOr<bool> Advance();
  absl::Status GaveUp() const;

  // Constant.
  const std::unique_ptr<MpiGroup> group_;
  const MpiAllreduceOptions options_;

  // The caller's.
  size_t position_ = 0, range_ = 0;  // of the next Start since the last Finish
  std::vector<size_t> lengths_;      // of the ranges, as they were the last time

  // The thread's.
  std::deque<std::unique_ptr<MpiBucket>> buckets_;  // under way, in order
  std::map<size_t, Residuals> residuals_;           // by position of the piece

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<Piece> queue_;  // not under way yet
  size_t open_ = 0;          // pieces that are not summed
  bool waiting_ = false;     // somebody is in Finish
  bool give_up_ = false, stop_ = false;
  absl::Status failed_;
  uint64_t bytes_sent_ = 0;

  std::thread thread_;  // none with one worker
};

}  // namespace savior
