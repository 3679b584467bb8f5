// Which Allreduce a run's workers use.
#pragma once

#include <c10/core/Device.h>

#include <memory>

#include "common/clock.h"
#include "common/status.h"
#include "common/value_codec.h"
#include "worker/allreduce.h"
#include "worker/mpi_group.h"

namespace savior {

// Between `workers`, which outlive it: NCCL where gradients lie on a GPU, else MPI; one worker
// needs none. wire: kFloat32 or kBfloat16. All of them call it. Errors: those of what is made.
[[nodiscard]] absl::StatusOr<std::unique_ptr<Allreduce>> MakeAllreduce(MpiGroup* workers,
                                                                       c10::Device device,
                                                                       ValueDtype wire,
                                                                       Deadline deadline);

}  // namespace savior
