// One bucket of an allreduce over MPI: values that are summed, and sent, together.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/value_codec.h"
#include "worker/mpi_group.h"
#include "worker/mpi_transfers.h"

namespace savior {

// Two phases, N workers, n values. Worker r owns the values from r * n / N to (r + 1) * n / N.
//   scatter   every worker sends each owner its slice; the owner adds the N slices up, in the order
//             of the workers, in float32
//   gather    every owner sends all others the sums of its slice
// A worker sends 2 n (N - 1) / N values, whatever N is. The order of the sums is the same over any
// network, so their bits are.
//
// With a 16-bit wire both directions are rounded, a worker's own values as well: all workers get
// the same bits. What rounding took from a value is kept by position and added to the same value of
// the next step, before it is rounded: by each worker for what it contributes, by each owner for
// the sums (error feedback; Seide et al. 2014). So nothing is lost, only late.
//
// Single-threaded.
class MpiBucket {
 public:
  // What is added before rounding, [n]; not used where the wire is float32.
  struct Residuals {
    std::span<float> contribution, sum;
  };

  // `group` outlives this. Bytes under way are this object's own: `values` and the residuals are
  // free when it is destroyed.
  MpiBucket(const MpiGroup* group, std::span<float> values, ValueDtype wire, Residuals residuals);

  // Encodes and sends. Buckets begin to scatter, and to gather, in the same order at all workers:
  // messages are told apart by their order.
  void StartScatter();
  bool scattered() const { return phase_ == Phase::kScattered; }
  // Adds up and sends. After scattered().
  void StartGather();
  bool gathering() const { return phase_ >= Phase::kGather; }
  bool done() const { return phase_ == Phase::kDone; }  // the sums are in `values`

  // Whether anything has moved. Errors: MpiTransfers::Poll.
  [[nodiscard]] absl::StatusOr<bool> Poll();
  // Ranks in the world that it waits for.
  std::vector<uint32_t> MissingPeers() const { return transfers_.MissingPeers(); }
  uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  enum class Phase : uint8_t { kNew, kScatter, kScattered, kGather, kDone };
  // Kept by the messages.
  struct Buffers {
    std::vector<std::byte> contribution;  // [n]
    std::vector<std::byte> slices;        // [N][own slice], 4-byte aligned each
    std::vector<std::byte> own_sum;       // [own slice]
    std::vector<std::byte> sums;          // [n]
  };
  size_t SliceBegin(size_t rank) const { return rank * values_.size() / group_->size(); }
  size_t SliceSize(size_t rank) const { return SliceBegin(rank + 1) - SliceBegin(rank); }
  // Encodes values + residual, and keeps what that rounded away; `values` become what was sent.
  void Encode(std::span<float> values, std::span<float> residual, std::byte* out);

  const MpiGroup* const group_;
  const std::span<float> values_;
  const ValueDtype wire_;
  const size_t width_;
  const Residuals residuals_;
  const size_t slice_stride_;  // bytes
  const std::shared_ptr<Buffers> buffers_ = std::make_shared<Buffers>();
  MpiTransfers transfers_;
  std::vector<float> scratch_;
  Phase phase_ = Phase::kNew;
  uint64_t bytes_sent_ = 0;
};

}  // namespace savior
