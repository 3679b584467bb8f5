#include "worker/nccl_allreduce.h"

#include <c10/cuda/CUDAGuard.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "worker/device.h"

namespace savior {
namespace {

using Wire = NcclAllreduce::Wire;

Deadline Soon() { return DeadlineIn(std::chrono::seconds(60)); }

// Members are threads of this process.
struct Meeting {
  explicit Meeting(uint32_t members) : given(members) {}
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::string> given;
  uint32_t here = 0;
};

// For one Allgather only.
class ThreadGroup final : public Group {
 public:
  ThreadGroup(Meeting* meeting, uint32_t rank) : meeting_(meeting), rank_(rank) {}
  uint32_t rank() const override { return rank_; }
  uint32_t size() const override { return static_cast<uint32_t>(meeting_->given.size()); }
  absl::StatusOr<std::vector<std::string>> Allgather(std::string_view mine,
                                                     Deadline deadline) override {
    std::unique_lock lock(meeting_->mutex);
    meeting_->given[rank_] = std::string(mine);
    ++meeting_->here;
    meeting_->changed.notify_all();
    if (!meeting_->changed.wait_until(lock, deadline,
                                      [this] { return meeting_->here == size(); })) {
      return absl::DeadlineExceededError("a thread is missing");
    }
    return meeting_->given;
  }

 private:
  Meeting* const meeting_;
  const uint32_t rank_;
};

std::span<float> SpanOf(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

at::TensorOptions On(int64_t gpu) {
  return at::TensorOptions(at::kFloat).device(at::kCUDA, static_cast<c10::DeviceIndex>(gpu));
}

// Three steps of three ranges, one of them in host memory, that count up from rank + step: what
// each sum is, is known.
void SumSteps(Group& group, int64_t gpu, Wire wire) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(gpu));
  auto allreduce = NcclAllreduce::Create(group, On(gpu).device(), wire, Soon());
  ASSERT_TRUE(allreduce.ok()) << allreduce.status();
  const auto ranks = static_cast<float>(group.size());
  for (int step = 0; step < 3; ++step) {
    const float first = static_cast<float>(group.rank()) + static_cast<float>(step);
    // Small integers: exact in bfloat16, too.
    const at::Tensor a = at::full({1000}, first, On(gpu)), b = at::full({3}, 2 * first, On(gpu));
    std::vector<float> on_host = {3 * first};
    (*allreduce)->Start(SpanOf(a));
    (*allreduce)->Start(SpanOf(b));
    (*allreduce)->Start(on_host);
    const absl::Status done = (*allreduce)->Finish(Soon());
    ASSERT_TRUE(done.ok()) << done;
    const float sum = ranks * (ranks - 1) / 2 + ranks * static_cast<float>(step);
    EXPECT_TRUE(at::equal(a.cpu(), at::full({1000}, sum))) << "step " << step;
    EXPECT_TRUE(at::equal(b.cpu(), at::full({3}, 2 * sum))) << "step " << step;
    EXPECT_EQ(on_host[0], 3 * sum) << "step " << step;
  }
}

TEST(NcclAllreduceGpu, OfOneWorkerKeepsItsValues) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  SoloGroup alone;
  for (const Wire wire : {Wire::kFloat32, Wire::kBfloat16}) SumSteps(alone, 0, wire);
}

TEST(NcclAllreduceGpu, SumsOverGpus) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  if (gpus->size() < 2) GTEST_SKIP() << "one GPU only: a second rank needs one of its own";
  for (const Wire wire : {Wire::kFloat32, Wire::kBfloat16}) {
    Meeting meeting(static_cast<uint32_t>(gpus->size()));
    std::vector<std::thread> workers;
    for (int64_t rank = 0; rank < static_cast<int64_t>(gpus->size()); ++rank) {
      workers.emplace_back([&meeting, rank, wire] {
        ThreadGroup group(&meeting, static_cast<uint32_t>(rank));
        SumSteps(group, rank, wire);
      });
    }
    for (std::thread& worker : workers) worker.join();
  }
}

// Error feedback: of one value that bfloat16 cannot hold, the sum over many steps is right.
TEST(NcclAllreduceGpu, RoundingIsMadeUpForInLaterSteps) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  SoloGroup alone;
  auto allreduce = NcclAllreduce::Create(alone, On(0).device(), Wire::kBfloat16, Soon());
  ASSERT_TRUE(allreduce.ok()) << allreduce.status();
  double total = 0;
  constexpr int64_t kLength = NcclAllreduce::kShort + 1;
  constexpr int kSteps = 1000;
  for (int step = 0; step < kSteps; ++step) {
    const at::Tensor value = at::full({kLength}, 1.001, On(0));
    (*allreduce)->Start(SpanOf(value));
    ASSERT_TRUE((*allreduce)->Finish(Soon()).ok());
    total += value[0].item<double>();
  }
  EXPECT_NEAR(total, kSteps * 1.001, 0.01);
}

TEST(NcclAllreduceGpu, WithoutThePeerCreateEndsByItsDeadline) {
  const auto gpus = FindGpus();
  if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
  // Rank 1 gives nothing and never connects.
  Meeting meeting(2);
  meeting.here = 1;
  ThreadGroup group(&meeting, 0);
  const auto started = SteadyClock::now();
  const auto made = NcclAllreduce::Create(group, On(0).device(), Wire::kFloat32,
                                          DeadlineIn(std::chrono::seconds(2)));
  EXPECT_TRUE(absl::IsDeadlineExceeded(made.status())) << made.status();
  EXPECT_LT(SteadyClock::now() - started, std::chrono::seconds(30));
}

}  // namespace
}  // namespace savior
