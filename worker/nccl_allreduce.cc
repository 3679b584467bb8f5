#include "worker/nccl_allreduce.h"

#include <absl/strings/str_cat.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

namespace savior {
namespace {

constexpr std::chrono::microseconds kPoll{20};
constexpr std::chrono::seconds kGoodbye{5};  // to finish a communicator in order

absl::Status NcclError(ncclResult_t result, ncclComm_t communicator, const char* what) {
  std::string message = absl::StrCat("NCCL: ", what, ": ", ncclGetErrorString(result));
  const char* detail = ncclGetLastError(communicator);
  if (detail != nullptr && *detail != '\0') absl::StrAppend(&message, " (", detail, ")");
  // Another worker or the network is gone: like a lost peer elsewhere.
  const bool peer = result == ncclRemoteError || result == ncclSystemError;
  return peer ? absl::UnavailableError(message) : absl::InternalError(message);
}

bool IsOnDevice(const float* data) {
  cudaPointerAttributes attributes = {};
  C10_CUDA_CHECK(cudaPointerGetAttributes(&attributes, data));
  return attributes.type == cudaMemoryTypeDevice;
}

bool Accepted(ncclResult_t result) { return result == ncclSuccess || result == ncclInProgress; }

// The id that rank 0 made, on every rank.
absl::StatusOr<ncclUniqueId> ShareId(Group& group, Deadline deadline) {
  ncclUniqueId id = {};
  ncclResult_t made = ncclSuccess;
  std::string mine;
  if (group.rank() == 0) {
    made = ncclGetUniqueId(&id);
    if (made == ncclSuccess) mine.assign(id.internal, sizeof id.internal);
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all, group.Allgather(mine, deadline));
  if (made != ncclSuccess) return NcclError(made, nullptr, "ncclGetUniqueId");
  if (all[0].size() != sizeof id.internal) {
    return absl::UnavailableError("NCCL: worker 0 could not make a communicator's id");
  }
  std::memcpy(id.internal, all[0].data(), sizeof id.internal);
  return id;
}

}  // namespace

NcclAllreduce::NcclAllreduce(const Group& group, at::Device device, Wire wire)
    : rank_(group.rank()),
      size_(group.size()),
      device_(device),
      wire_(wire),
      stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index())) {}

absl::StatusOr<std::unique_ptr<NcclAllreduce>> NcclAllreduce::Create(Group& group,
                                                                     at::Device device, Wire wire,
                                                                     Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(const ncclUniqueId id, ShareId(group, deadline));
  try {
    const c10::cuda::CUDAGuard guard(device);
    std::unique_ptr<NcclAllreduce> made(new NcclAllreduce(group, device, wire));
    SAVIOR_RETURN_IF_ERROR(made->Connect(id, deadline));
    return made;
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  }
}

absl::Status NcclAllreduce::Connect(const ncclUniqueId& id, Deadline deadline) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result = ncclCommInitRankConfig(&communicator_, static_cast<int>(size_), id,
                                                     static_cast<int>(rank_), &config);
  if (!Accepted(result)) return NcclError(result, communicator_, "ncclCommInitRankConfig");
  return Settle(deadline, "connecting the workers");
}

// Until the communicator is done with its last call.
absl::Status NcclAllreduce::Settle(Deadline deadline, const char* what) {
  for (;;) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &state);
    if (asked != ncclSuccess) return NcclError(asked, communicator_, "ncclCommGetAsyncError");
    if (state == ncclSuccess) return absl::OkStatus();
    if (state != ncclInProgress) return NcclError(state, communicator_, what);
    if (SteadyClock::now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("NCCL: ", what, ": not done in time by worker ", rank_, " of ", size_));
    }
    std::this_thread::sleep_for(kPoll);
  }
}

NcclAllreduce::~NcclAllreduce() {
  if (communicator_ == nullptr) return;
  const bool idle = broken_.ok() && waiting_.empty() && launched_ == 0;
  if (idle && Accepted(ncclCommFinalize(communicator_)) &&
      Settle(SteadyClock::now() + kGoodbye, "ncclCommFinalize").ok()) {
    ncclCommDestroy(communicator_);
    return;
  }
  ncclCommAbort(communicator_);
}

void NcclAllreduce::Start(std::span<float> values) {
  if (!broken_.ok() || values.empty()) return;  // Finish reports it
  try {
    const std::array<int64_t, 1> shape = {static_cast<int64_t>(values.size())};
    const auto there = at::TensorOptions(at::kFloat).device(device_);
    Waiting& waiting = waiting_.emplace_back();
    if (IsOnDevice(values.data())) {
      waiting.values = at::from_blob(values.data(), shape, there);
    } else {
      waiting.host = at::from_blob(values.data(), shape, at::kFloat);
      const c10::cuda::CUDAStreamGuard guard(stream_);
      waiting.values = waiting.host.to(device_);
    }
    waiting.ready.record(c10::cuda::getCurrentCUDAStream(device_.index()));
    broken_ = Advance();
  } catch (const c10::Error& error) {
    broken_ = absl::InternalError(error.what_without_backtrace());
  }
}

// Launches what waits, as far as the communicator takes it now.
absl::Status NcclAllreduce::Advance() {
  while (!waiting_.empty()) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(communicator_, &state);
    if (asked != ncclSuccess) return NcclError(asked, communicator_, "ncclCommGetAsyncError");
    if (state == ncclInProgress) return absl::OkStatus();
    if (state != ncclSuccess) return NcclError(state, communicator_, "ncclAllReduce");
    SAVIOR_RETURN_IF_ERROR(Launch(waiting_.front()));
    waiting_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status NcclAllreduce::Launch(Waiting& waiting) {
  // Tensors made here belong to the side stream, so that the allocator does not hand their memory
  // to another stream too early.
  const c10::cuda::CUDAStreamGuard guard(stream_);
  waiting.ready.block(stream_);
  const auto count = static_cast<size_t>(waiting.values.numel());
  at::Tensor sent = waiting.values;
  if (wire_ == Wire::kBfloat16 && count > kShort) {
    sent = Compress(waiting.values);
    widen_.push_back({sent, waiting.values});
  }
  const ncclDataType_t type = sent.scalar_type() == at::kFloat ? ncclFloat32 : ncclBfloat16;
  const ncclResult_t result =
      ncclAllReduce(sent.data_ptr(), sent.data_ptr(), count, type, ncclSum, communicator_, stream_);
  if (!Accepted(result)) return NcclError(result, communicator_, "ncclAllReduce");
  if (waiting.host.defined()) to_host_.push_back({waiting.values, waiting.host});
  ++launched_;
  return absl::OkStatus();
}

// What is sent of `values` and of what was left out before.
at::Tensor NcclAllreduce::Compress(const at::Tensor& values) {
  const c10::NoGradGuard no_grad;
  remainders_.resize(std::max(remainders_.size(), launched_ + 1));
  at::Tensor& remainder = remainders_[launched_];
  // Another length than last time is another value: nothing is owed to it.
  if (!remainder.defined() || remainder.numel() != values.numel()) {
    remainder = at::zeros_like(values);
  }
  remainder.add_(values);
  const at::Tensor sent = remainder.to(at::kBFloat16);
  remainder.sub_(sent);
  return sent;
}

absl::Status NcclAllreduce::Finish(Deadline deadline) {
  if (broken_.ok()) {
    try {
      broken_ = FinishBy(deadline);
    } catch (const c10::Error& error) {
      broken_ = absl::InternalError(error.what_without_backtrace());
    }
  }
  if (!broken_.ok()) Abort();
  return broken_;
}

absl::Status NcclAllreduce::FinishBy(Deadline deadline) {
  while (!waiting_.empty()) {
    SAVIOR_RETURN_IF_ERROR(Settle(deadline, "ncclAllReduce"));
    SAVIOR_RETURN_IF_ERROR(Advance());
  }
  // The last one is on the stream only when the communicator says so.
  SAVIOR_RETURN_IF_ERROR(Settle(deadline, "ncclAllReduce"));
  {
    const c10::cuda::CUDAStreamGuard guard(stream_);
    for (const Copy& copy : widen_) copy.to.copy_(copy.from);
    done_.record(stream_);
  }
  while (!done_.query()) {
    // A peer's error shows here; the event would never come.
    SAVIOR_RETURN_IF_ERROR(Settle(deadline, "ncclAllReduce"));
    if (SteadyClock::now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("NCCL: gradients are not summed in time at worker ", rank_, " of ", size_,
                       "; another worker is missing or slow"));
    }
    std::this_thread::sleep_for(kPoll);
  }
  for (const Copy& copy : to_host_) copy.to.copy_(copy.from);
  widen_.clear();
  to_host_.clear();
  launched_ = 0;
  return absl::OkStatus();
}

void NcclAllreduce::Abort() {
  waiting_.clear();
  if (communicator_ != nullptr) ncclCommAbort(std::exchange(communicator_, nullptr));
  widen_.clear();
  to_host_.clear();
}

}  // namespace savior
