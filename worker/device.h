// Where a worker computes: on the CPU, or on one of its machine's GPUs.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

// By config key cluster.device, and `local_rank` >= 0, the worker's number among those of its
// machine:
//
//   "cpu"    the CPU
//   "cuda"   GPU `local_rank` modulo their number; kInvalidArgument, which names the key and the
//            reason, where this build or this machine has none
//   "auto"   as "cuda" where that works, else the CPU
//
// Where it is a GPU, LibTorch is told to take only kernels there that repeat their bits; for cuBLAS
// that is an environment variable, so: before anything is computed, and while no other thread reads
// the environment.
[[nodiscard]] absl::StatusOr<c10::Device> PickDevice(std::string_view choice, int64_t local_rank);

// The GPUs that this process can use, at least one, by their addresses on the machine's bus: two
// processes that see different sets of them (CUDA_VISIBLE_DEVICES) still call one by the same name.
// kFailedPrecondition says why there are none.
[[nodiscard]] absl::StatusOr<std::vector<std::string>> FindGpus();

}  // namespace savior
