// Where a worker computes: on the CPU, or on one of its machine's GPUs.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string_view>

#include "common/status.h"

namespace savior {

// By config key cluster.device, and `local_rank` >= 0, the worker's number among those of its
// machine:
//
//   "cpu"    the CPU
//   "cuda"   GPU `local_rank` modulo their number; kInvalidArgument, which names the key and the
//            reason, where this build or this machine has none
//   "auto"   as "cuda" where that works, else the CPU
[[nodiscard]] absl::StatusOr<c10::Device> PickDevice(std::string_view choice, int64_t local_rank);

// GPUs that this build can use on this machine. kFailedPrecondition says why there are none.
[[nodiscard]] absl::StatusOr<int64_t> CountGpus();

}  // namespace savior
