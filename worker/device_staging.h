// Moves a step's arrays between host and device: one transfer each way instead of one per array,
// through page-locked memory, so that the host does not wait for its own.
//
// Page-locked memory is double-buffered: while the device still copies out of one buffer, the next
// step fills the other. An event behind the last copy of a buffer says when it may be filled again.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace savior {

// Single-threaded. With the CPU as device it copies all the same, into plain memory: for tests.
class DeviceStaging {
 public:
  explicit DeviceStaging(at::Device device);

  // A step begins: goes on to the other buffer, and waits until nothing is copied from it any more.
  void NextStep();

  // Replaces host tensors (contiguous; undefined ones stay so) by copies on the device, on its
  // current stream. Returns at once; the host tensors may change afterwards. The copies are views
  // into one allocation, each aligned to kAlignment bytes.
  void ToDevice(std::span<at::Tensor* const> tensors);
  at::Tensor ToDevice(at::Tensor tensor);

  // float32 tensors of the device, as they are when all that the current stream was given before is
  // done; an undefined one gives an empty vector. Waits for it.
  std::vector<std::vector<float>> ToHost(std::span<const at::Tensor> tensors);

  static constexpr int64_t kAlignment = 256;

 private:
  struct Buffer {
    at::Tensor memory;  // bytes, page-locked where the device is a GPU
    int64_t used = 0;
    std::vector<at::Tensor> outgrown;  // of this step, and perhaps still copied from
    std::optional<c10::Event> copied;  // behind the last copy; none before the first
  };
  // `bytes` of the current buffer that nothing of this step uses; a larger buffer where it is full.
  at::Tensor Take(int64_t bytes);
  at::Tensor HostMemory(int64_t bytes) const;

  const at::Device device_;
  std::array<Buffer, 2> buffers_;
  size_t current_ = 0;
  at::Tensor incoming_;  // bytes, as a Buffer's memory
};

}  // namespace savior
