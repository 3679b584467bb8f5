#include "worker/device_staging.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>

namespace savior {
namespace {

int64_t Aligned(int64_t bytes) {
  return (bytes + DeviceStaging::kAlignment - 1) / DeviceStaging::kAlignment *
         DeviceStaging::kAlignment;
}

int64_t Bytes(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

void Record(c10::Event& event, at::Device device) {
  event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

}  // namespace

DeviceStaging::DeviceStaging(at::Device device) : device_(device) {}

at::Tensor DeviceStaging::HostMemory(int64_t bytes) const {
  return at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(device_.is_cuda()));
}

void DeviceStaging::NextStep() {
  current_ = 1 - current_;
  Buffer& buffer = buffers_[current_];
  if (buffer.copied) buffer.copied->synchronize();
  buffer.used = 0;
  buffer.outgrown.clear();
}

at::Tensor DeviceStaging::Take(int64_t bytes) {
  Buffer& buffer = buffers_[current_];
  if (!buffer.memory.defined() || buffer.used + bytes > buffer.memory.numel()) {
    if (buffer.memory.defined()) buffer.outgrown.push_back(buffer.memory);
    // Twice what the step has asked for so far: a few steps find the size of all.
    buffer.memory = HostMemory(2 * (buffer.used + bytes));
    buffer.used = 0;
  }
  buffer.used += bytes;
  return buffer.memory.narrow(0, buffer.used - bytes, bytes);
}

void DeviceStaging::ToDevice(std::span<at::Tensor* const> tensors) {
  int64_t bytes = 0;
  for (const at::Tensor* tensor : tensors) {
    if (tensor->defined()) bytes += Aligned(Bytes(*tensor));
  }
  if (bytes == 0) {
    for (at::Tensor* tensor : tensors) {
      if (tensor->defined()) *tensor = tensor->to(device_);
    }
    return;
  }
  const at::Tensor host = Take(bytes);
  int64_t offset = 0;
  for (const at::Tensor* tensor : tensors) {
    if (!tensor->defined() || tensor->numel() == 0) continue;
    std::memcpy(host.data_ptr<uint8_t>() + offset, tensor->data_ptr(), tensor->nbytes());
    offset += Aligned(Bytes(*tensor));
  }
  const at::Tensor there = at::empty({bytes}, at::TensorOptions(at::kByte).device(device_));
  there.copy_(host, /*non_blocking=*/true);
  if (device_.is_cuda()) {
    Buffer& buffer = buffers_[current_];
    if (!buffer.copied) buffer.copied.emplace(device_.type());
    Record(*buffer.copied, device_);
  }
  offset = 0;
  for (at::Tensor* tensor : tensors) {
    if (!tensor->defined()) continue;
    const int64_t length = Bytes(*tensor);
    *tensor = there.narrow(0, offset, length).view(tensor->scalar_type()).view(tensor->sizes());
    offset += Aligned(length);
  }
}

at::Tensor DeviceStaging::ToDevice(at::Tensor tensor) {
  at::Tensor* const one[] = {&tensor};
  ToDevice(one);
  return tensor;
}

std::vector<std::vector<float>> DeviceStaging::ToHost(std::span<const at::Tensor> tensors) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.defined()) bytes += Aligned(Bytes(tensor));
  }
  if (!incoming_.defined() || incoming_.numel() < bytes) incoming_ = HostMemory(2 * bytes);
  int64_t offset = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) continue;
    incoming_.narrow(0, offset, Bytes(tensor))
        .view(at::kFloat)
        .view(tensor.sizes())
        .copy_(tensor, /*non_blocking=*/true);
    offset += Aligned(Bytes(tensor));
  }
  if (device_.is_cuda()) {
    c10::Event done(device_.type());
    Record(done, device_);
    done.synchronize();
  }
  std::vector<std::vector<float>> values;
  offset = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.defined()) {
      values.emplace_back();
      continue;
    }
    const auto* begin = reinterpret_cast<const float*>(incoming_.data_ptr<uint8_t>() + offset);
    values.emplace_back(begin, begin + tensor.numel());
    offset += Aligned(Bytes(tensor));
  }
  return values;
}

}  // namespace savior
