#include "worker/device.h"

#include <absl/strings/str_cat.h>

#include <cstdlib>

#ifdef SAVIOR_CUDA
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#endif

namespace savior {

#ifdef SAVIOR_CUDA
namespace {

// For many rows LibTorch sums the rows of equal indices by atomic additions, and cuBLAS adds in
// whatever workspace is free. Measured on an H100: with this the gradients of all arms repeat
// themselves, without it those of rows do not.
void UseRepeatableKernels() {
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*replace=*/0);
  at::Context& torch = at::globalContext();
  torch.setDeterministicAlgorithms(true, /*warn_only=*/false);
  // Filling memory that is not written yet would cost a kernel per tensor and find no error of
  // ours.
  torch.setDeterministicFillUninitializedMemory(false);
}

}  // namespace
#endif

absl::StatusOr<std::vector<std::string>> FindGpus() {
#ifdef SAVIOR_CUDA
  try {
    std::vector<std::string> addresses(c10::cuda::device_count_ensure_non_zero());
    for (size_t gpu = 0; gpu < addresses.size(); ++gpu) {
      char address[32] = "";
      C10_CUDA_CHECK(cudaDeviceGetPCIBusId(address, sizeof address, static_cast<int>(gpu)));
      addresses[gpu] = address;
    }
    return addresses;
  } catch (const c10::Error& error) {
    return absl::FailedPreconditionError(error.what_without_backtrace());
  }
#else
  return absl::FailedPreconditionError(
      "this program was built without CUDA (configure with -DSAVIOR_CUDA=ON, see docs/gpu.md)");
#endif
}

absl::StatusOr<c10::Device> PickDevice(std::string_view choice, int64_t local_rank) {
  const c10::Device cpu(c10::DeviceType::CPU);
  if (choice == "cpu") return cpu;
  const absl::StatusOr<std::vector<std::string>> gpus = FindGpus();
  if (gpus.ok()) {
#ifdef SAVIOR_CUDA
    UseRepeatableKernels();
#endif
    const int64_t gpu = local_rank % static_cast<int64_t>(gpus->size());
    return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(gpu));
  }
  if (choice == "auto") return cpu;
  return absl::InvalidArgumentError(
      absl::StrCat("cluster.device = \"cuda\": ", gpus.status().message()));
}

}  // namespace savior
