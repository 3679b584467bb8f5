#include "worker/device.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "worker/device_staging.h"

namespace savior {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::MatchesRegex;

TEST(PickDevice, CpuIsTheCpu) {
  const auto device = PickDevice("cpu", 3);
  ASSERT_TRUE(device.ok());
  EXPECT_TRUE(device->is_cpu());
}

TEST(PickDevice, WithoutAGpuAutoIsTheCpuAndCudaSaysWhyNot) {
  if (FindGpus().ok()) GTEST_SKIP() << "this machine has a GPU";
  const auto chosen = PickDevice("auto", 0);
  ASSERT_TRUE(chosen.ok());
  EXPECT_TRUE(chosen->is_cpu());
  const absl::Status wanted = PickDevice("cuda", 0).status();
  EXPECT_TRUE(absl::IsInvalidArgument(wanted));
  EXPECT_THAT(std::string(wanted.message()), HasSubstr("cluster.device = \"cuda\": "));
  EXPECT_GT(wanted.message().size(), 40u) << wanted;  // and a reason
}

TEST(PickDeviceGpu, WorkersOfAMachineShareItsGpusInTurn) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  const auto count = static_cast<int64_t>(gpus->size());
  for (int64_t rank = 0; rank < 2 * count; ++rank) {
    for (const char* choice : {"auto", "cuda"}) {
      const auto device = PickDevice(choice, rank);
      ASSERT_TRUE(device.ok()) << device.status();
      EXPECT_TRUE(device->is_cuda());
      EXPECT_EQ(device->index(), rank % count);
    }
  }
}

TEST(FindGpusGpu, NamesEachByItsAddress) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  EXPECT_THAT(*gpus, Each(MatchesRegex("[0-9A-Fa-f]+:[0-9A-Fa-f]+:[0-9A-Fa-f]+\\.[0-9]+")));
  EXPECT_EQ(std::set<std::string>(gpus->begin(), gpus->end()).size(), gpus->size());
}

// Several steps, each with more to copy than the last, so that buffers are outgrown while in use;
// the host's arrays are overwritten at once.
void MoveThereAndBack(at::Device device) {
  DeviceStaging staging(device);
  std::vector<at::Tensor> kept_floats, kept_indices;
  constexpr int64_t kSteps = 7;
  for (int64_t step = 0; step < kSteps; ++step) {
    staging.NextStep();
    at::Tensor floats = at::full({1 + 100 * step, 3}, static_cast<double>(step));
    at::Tensor indices = at::arange(step * 1000, at::kLong);
    const at::Tensor host_floats = floats, host_indices = indices;
    at::Tensor undefined, empty = at::empty({0, 4});
    at::Tensor* const tensors[] = {&floats, &undefined, &empty, &indices};
    staging.ToDevice(tensors);
    const at::Tensor later = staging.ToDevice(at::full({2}, 0.5));
    host_floats.fill_(-1);
    host_indices.fill_(-1);
    EXPECT_FALSE(undefined.defined());
    EXPECT_EQ(empty.sizes(), (at::IntArrayRef{0, 4}));
    EXPECT_EQ(floats.device(), device);
    EXPECT_EQ(later.sum().item<float>(), 1.0f);
    kept_floats.push_back(floats);
    kept_indices.push_back(indices);
  }
  // Nothing was overwritten by later steps.
  for (int64_t step = 0; step < kSteps; ++step) {
    const auto i = static_cast<size_t>(step);
    EXPECT_TRUE(
        at::equal(kept_floats[i].cpu(), at::full({1 + 100 * step, 3}, static_cast<double>(step))));
    EXPECT_TRUE(at::equal(kept_indices[i].cpu(), at::arange(step * 1000, at::kLong)));
  }
  const at::Tensor out[] = {kept_floats[2] * 2, at::Tensor(), kept_floats[1]};
  const std::vector<std::vector<float>> values = staging.ToHost(out);
  ASSERT_EQ(values.size(), 3u);
  EXPECT_EQ(values[0], std::vector<float>(3 * 201, 4.0f));
  EXPECT_TRUE(values[1].empty());
  EXPECT_EQ(values[2], std::vector<float>(3 * 101, 1.0f));
}

TEST(DeviceStaging, MovesAStepsArraysThereAndBack) { MoveThereAndBack(at::kCPU); }

TEST(DeviceStaging, OfAStepWithoutDataKeepsShapes) {
  DeviceStaging staging(at::kCPU);
  staging.NextStep();
  EXPECT_EQ(staging.ToDevice(at::empty({0, 7})).sizes(), (at::IntArrayRef{0, 7}));
  const at::Tensor nothing[] = {at::empty({0})};
  EXPECT_TRUE(staging.ToHost(nothing)[0].empty());
}

TEST(DeviceStagingGpu, MovesAStepsArraysThereAndBack) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  MoveThereAndBack(at::Device(at::kCUDA, 0));
}

}  // namespace
}  // namespace savior
