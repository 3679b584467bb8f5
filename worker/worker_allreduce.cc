#include "worker/worker_allreduce.h"

#include "worker/mpi_allreduce.h"
#ifdef SAVIOR_CUDA
#include "worker/nccl_allreduce.h"
#endif

namespace savior {

absl::StatusOr<std::unique_ptr<Allreduce>> MakeAllreduce(MpiGroup* workers, c10::Device device,
                                                         ValueDtype wire, Deadline deadline) {
  if (workers->size() == 1) return std::make_unique<SoloAllreduce>();
#ifdef SAVIOR_CUDA
  if (device.is_cuda()) {
    const auto nccl_wire = wire == ValueDtype::kBfloat16 ? NcclAllreduce::Wire::kBfloat16
                                                         : NcclAllreduce::Wire::kFloat32;
    return NcclAllreduce::Create(*workers, device, nccl_wire, deadline);
  }
#endif
  return MpiAllreduce::Create(workers, {.wire = wire}, deadline);
}

}  // namespace savior
