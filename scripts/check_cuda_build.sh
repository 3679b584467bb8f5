#!/usr/bin/env bash
# Compiles and links what only the CUDA build (-DSAVIOR_CUDA=ON) compiles, on a machine with or
# without a GPU, in build/cuda. What it links is not started: that takes scripts/setup.sh --gpu.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

SKIPPED=77 # what tests/worker/device/CMakeLists.txt tells CTest to call a skip

cd "$ROOT"
[[ -e .cuda/READY ]] || {
  echo "SKIPPED, nothing was compiled: NCCL and CUDA headers are missing; run scripts/setup.sh --cuda-build"
  exit "$SKIPPED"
}
cmake --preset cuda >/dev/null
cmake --build build/cuda -j 2 --target device_test nccl_allreduce_test
for program in device_test nccl_allreduce_test; do
  # Not piped into grep -q, which may end before readelf has written all.
  needed=$(readelf -d "build/cuda/tests/worker/device/$program")
  for library in libtorch_cuda.so libc10_cuda.so libnccl.so.2; do
    [[ $needed == *"[$library]"* ]] || die "$program was linked without $library"
  done
done
echo "compiled and linked against libtorch_cuda.so and libnccl.so.2"
