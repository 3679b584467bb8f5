#include "worker/gradient_buckets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// Notes what is started, as (offset, length).
class NotingAllreduce final : public Allreduce {
 public:
  explicit NotingAllreduce(const float* base) : base_(base) {}
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 2; }
  void Start(std::span<float> values) override {
    started.emplace_back(values.data() - base_, values.size());
  }
  absl::Status Finish(Deadline) override { return absl::OkStatus(); }

  std::vector<std::pair<int64_t, size_t>> started;

 private:
  const float* const base_;
};

// Parameters of 4, 1, 8, 3 and 2 floats; buckets close at 16 bytes.
struct World {
  World() : gradients(18), allreduce(gradients.data()) {
    int64_t offset = 0;
    for (const int64_t size : {4, 1, 8, 3, 2}) {
      parameters.push_back({"", {size}, offset, size});
      offset += size;
    }
  }
  std::vector<float> gradients;
  NotingAllreduce allreduce;
  std::vector<DenseWeights::Parameter> parameters;
};

TEST(GradientBuckets, StartInOneOrderWhateverIsReadyFirst) {
  World w;
  GradientBuckets buckets(w.parameters, w.gradients, &w.allreduce, 16);
  // {4, 3}, {2}, {1, 0}
  ASSERT_EQ(buckets.buckets(), 3u);
  for (int step = 0; step < 2; ++step) {
    w.allreduce.started.clear();
    buckets.Ready(2);
    buckets.Ready(4);
    EXPECT_THAT(w.allreduce.started, IsEmpty());
    buckets.Ready(3);
    EXPECT_THAT(w.allreduce.started, ElementsAre(Pair(13, 5), Pair(5, 8)));
    buckets.Ready(0);
    buckets.Ready(1);
    buckets.StartRest();
    EXPECT_THAT(w.allreduce.started, ElementsAre(Pair(13, 5), Pair(5, 8), Pair(0, 5)));
  }
}

TEST(GradientBuckets, ParametersWithoutAGradientAreReadyAtTheEnd) {
  World w;
  GradientBuckets buckets(w.parameters, w.gradients, &w.allreduce, 16);
  buckets.Ready(4);
  buckets.Ready(2);
  buckets.StartRest();
  EXPECT_THAT(w.allreduce.started, ElementsAre(Pair(13, 5), Pair(5, 8), Pair(0, 5)));
  buckets.StartRest();  // a worker without data
  EXPECT_EQ(w.allreduce.started.size(), 6u);
}

TEST(GradientBuckets, ThereMayBeNoParameters) {
  World w;
  GradientBuckets buckets({}, {}, &w.allreduce, 16);
  buckets.StartRest();
  EXPECT_THAT(w.allreduce.started, IsEmpty());
}

}  // namespace
}  // namespace savior
