#include "worker/device.h"

#include <absl/strings/str_cat.h>

#ifdef SAVIOR_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace savior {

absl::StatusOr<int64_t> CountGpus() {
#ifdef SAVIOR_CUDA
  try {
    return int64_t{c10::cuda::device_count_ensure_non_zero()};
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
  const absl::StatusOr<int64_t> gpus = CountGpus();
  if (gpus.ok()) {
    return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(local_rank % *gpus));
  }
  if (choice == "auto") return cpu;
  return absl::InvalidArgumentError(
      absl::StrCat("cluster.device = \"cuda\": ", gpus.status().message()));
}

}  // namespace savior
