// Sums gradients over the GPUs of a run's workers with NCCL. Compiled with SAVIOR_CUDA only.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "worker/allreduce.h"
#include "worker/group.h"

namespace savior {

// Single-threaded: no two calls at once (a backward pass on a GPU calls Start from a thread of
// autograd's). Values lie in the memory of the worker's GPU; a range in host memory (losses, flags)
// is copied there and back. Sums run on a stream of their own, ordered behind what the calling
// thread's current stream was given before Start, so that the backward pass goes on meanwhile.
//
// Weaker than Allreduce promises: NCCL picks the order of additions by the number of ranks and how
// they are wired. All workers get the same bits, and they are the same from run to run for the same
// number of ranks on the same topology (with the same NCCL and its settings); not otherwise, and
// not those of an Allreduce in host memory.
class NcclAllreduce final : public Allreduce {
 public:
  enum class Wire {
    kFloat32,
    // Half the bytes. What rounding leaves out of a value is added to it in the next step (error
    // feedback; Seide et al. 2014); what NCCL rounds between ranks is lost. The remainders are not
    // committed: a resumed run starts them from zero. Ranges of up to kShort values travel as
    // float32 all the same.
    kBfloat16,
  };

  static constexpr size_t kShort = 64;

  // All workers of `group` together; no two on one GPU. Blocks up to `deadline`.
  // kDeadlineExceeded: not all of them came; kUnavailable, kInternal: NCCL's error, by name.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<NcclAllreduce>> Create(Group& group,
                                                                             at::Device device,
                                                                             Wire wire,
                                                                             Deadline deadline);
  // Aborts what runs.
  ~NcclAllreduce() override;
  NcclAllreduce(const NcclAllreduce&) = delete;
  NcclAllreduce& operator=(const NcclAllreduce&) = delete;

  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return size_; }

  // A range in host memory waits for its copy to the device.
  void Start(std::span<float> values) override;

  // Aborts the communicator on an error or when time is up: nothing can be summed after it. NCCL
  // cannot tell which workers are missing.
  [[nodiscard]] absl::Status Finish(Deadline deadline) override;

 private:
  // Waits for its turn: a communicator that does not block takes no call while it works on one.
  struct Waiting {
    at::Tensor values;           // on the device, float32
    at::Tensor host;             // where the sum goes, if not there
    c10::cuda::CUDAEvent ready;  // behind the last writer of `values`
  };
  // What is left to do behind a sum.
  struct Copy {
    at::Tensor from, to;
  };

  NcclAllreduce(const Group& group, at::Device device, Wire wire);
  absl::Status Connect(const ncclUniqueId& id, Deadline deadline);
  absl::Status Settle(Deadline deadline, const char* what);
  absl::Status Advance();
  absl::Status Launch(Waiting& waiting);
  absl::Status FinishBy(Deadline deadline);
  at::Tensor Compress(const at::Tensor& values);
  void Abort();

  const uint32_t rank_, size_;
  const at::Device device_;
  const Wire wire_;
  const c10::cuda::CUDAStream stream_;
  ncclComm_t communicator_ = nullptr;  // null: aborted
  absl::Status broken_;                // the error that aborted it
  // Since the last Finish:
  std::deque<Waiting> waiting_;
  size_t launched_ = 0;
  std::vector<Copy> widen_;    // bfloat16 to float32, on the side stream
  std::vector<Copy> to_host_;  // when all is done
  c10::cuda::CUDAEvent done_;  // behind all that was launched

  std::vector<at::Tensor> remainders_;  // kBfloat16: of the i-th range of a step
};

}  // namespace savior
