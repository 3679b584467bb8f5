#include "worker/mpi_allreduce.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/half.h"
#include "common/random.h"
#include "tests/worker/mpi/job.h"

namespace savior {
namespace {

using testing::Soon;
using testing::WorldGroup;

std::unique_ptr<MpiAllreduce> Make(const MpiAllreduceOptions& options = {}) {
  auto made = MpiAllreduce::Create(&WorldGroup(), options, Soon());
  EXPECT_TRUE(made.ok()) << made.status();
  return std::move(*made);
}

// What worker `w` contributes to a sum: of all magnitudes, so that the order of adding shows.
std::vector<float> Values(uint32_t w, uint64_t seed, size_t n) {
  Random random(seed, w);
  std::vector<float> values(n);
  for (float& v : values) {
    v = static_cast<float>(random.Normal() * std::exp2(static_cast<double>(random.Below(30))));
  }
  return values;
}

std::vector<float> SumInOrder(uint64_t seed, size_t n) {
  std::vector<float> sum = Values(0, seed, n);
  for (uint32_t w = 1; w < WorldGroup().size(); ++w) {
    const std::vector<float> values = Values(w, seed, n);
    for (size_t i = 0; i < n; ++i) sum[i] += values[i];
  }
  return sum;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::vector<size_t> Lengths() {
  const size_t w = WorldGroup().size();
  return {0, 1, 3, w - 1, w, 1'000'000};
}

TEST(MpiAllreduce, SumsInTheOrderOfTheWorkersBitForBit) {
  for (const size_t bucket_bytes : {size_t{1} << 20, size_t{40'004}}) {
    const auto allreduce = Make({.bucket_bytes = bucket_bytes});
    for (const size_t n : Lengths()) {
      std::vector<float> values = Values(allreduce->rank(), n, n);
      allreduce->Start(values);
      ASSERT_TRUE(allreduce->Finish(Soon()).ok());
      EXPECT_TRUE(SameBits(values, SumInOrder(n, n))) << n;
    }
  }
}

TEST(MpiAllreduce, SumsManyRangesAtOnceAndManySteps) {
  const auto allreduce = Make({.bucket_bytes = 1000});
  for (uint64_t step = 0; step < 30; ++step) {
    std::vector<std::vector<float>> ranges;
    for (const size_t n : {7, 0, 1000, 1, 5000, 250}) {
      ranges.push_back(Values(allreduce->rank(), 100 * step + n, n));
    }
    for (auto& values : ranges) allreduce->Start(values);
    ASSERT_TRUE(allreduce->Finish(Soon()).ok());
    for (const auto& values : ranges) {
      EXPECT_TRUE(SameBits(values, SumInOrder(100 * step + values.size(), values.size())));
    }
  }
  EXPECT_EQ(allreduce->bytes_sent() > 0, allreduce->size() > 1);
  // 2 n (W - 1) / W values of four bytes, give or take what does not divide.
  const double share = 1.0 - 1.0 / static_cast<double>(allreduce->size());
  EXPECT_NEAR(static_cast<double>(allreduce->bytes_sent()), 30 * 6258 * 4 * 2 * share, 30 * 600.0);
}

// 100 steps of gradients that bfloat16 rounds badly: a large mean and small differences.
double DriftOf(MpiAllreduce& allreduce, bool feedback, size_t n) {
  std::vector<double> exact(n), got(n);
  for (uint64_t step = 0; step < 100; ++step) {
    std::vector<std::vector<float>> all;
    for (uint32_t w = 0; w < allreduce.size(); ++w) {
      Random random(step, w);
      auto& values = all.emplace_back(n);
      for (float& v : values) v = 1.0f + 1e-3f * static_cast<float>(random.Uniform());
      for (size_t i = 0; i < n; ++i) exact[i] += static_cast<double>(values[i]);
    }
    if (feedback) {
      allreduce.Start(all[allreduce.rank()]);
      EXPECT_TRUE(allreduce.Finish(Soon()).ok());
      for (size_t i = 0; i < n; ++i) got[i] += static_cast<double>(all[allreduce.rank()][i]);
    } else {
      for (size_t i = 0; i < n; ++i) {
        float sum = 0;
        for (const auto& values : all) sum += FloatOfBfloat(BfloatOf(values[i]));
        got[i] += static_cast<double>(FloatOfBfloat(BfloatOf(sum)));
      }
    }
  }
  double worst = 0;
  for (size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(got[i] - exact[i]));
  return worst;
}

TEST(MpiAllreduce, ErrorFeedbackLosesNothingOfSixteenBits) {
  const auto allreduce = Make({.wire = ValueDtype::kBfloat16, .bucket_bytes = 501});
  if (allreduce->size() == 1) GTEST_SKIP() << "one worker rounds nothing";
  const double with = DriftOf(*allreduce, true, 1003), without = DriftOf(*allreduce, false, 1003);
  // What is still owed after the last step, whatever came before: half of bfloat16's unit, 2^-8 of
  // the value, of each contribution and of the sum.
  EXPECT_LE(with, 1.01 * 0x1p-7 * allreduce->size());
  EXPECT_LT(3 * with, without);
}

TEST(MpiAllreduce, AllWorkersHaveTheSameBitsInSixteenBitsToo) {
  std::vector<std::string> runs;
  for (int run = 0; run < 2; ++run) {
    const auto allreduce = Make({.wire = ValueDtype::kBfloat16, .bucket_bytes = 3001});
    std::string bytes;
    for (uint64_t step = 0; step < 5; ++step) {
      std::vector<float> a = Values(allreduce->rank(), step, 10'001),
                         b = Values(allreduce->rank(), step + 50, 100);
      allreduce->Start(a);
      allreduce->Start(b);
      ASSERT_TRUE(allreduce->Finish(Soon()).ok());
      bytes.append(reinterpret_cast<const char*>(a.data()), a.size() * 4);
      bytes.append(reinterpret_cast<const char*>(b.data()), b.size() * 4);
    }
    const auto all = WorldGroup().Allgather(bytes, Soon());
    ASSERT_TRUE(all.ok()) << all.status();
    for (const std::string& theirs : *all) EXPECT_TRUE(theirs == bytes);
    runs.push_back(bytes);
  }
  EXPECT_TRUE(runs[0] == runs[1]);
}

TEST(MpiAllreduce, ShortRangesAreNotRoundedAndInfinityPassesThrough) {
  const auto allreduce = Make({.wire = ValueDtype::kBfloat16});
  std::vector<float> values = Values(allreduce->rank(), 1, MpiAllreduce::kShort);
  allreduce->Start(values);
  ASSERT_TRUE(allreduce->Finish(Soon()).ok());
  EXPECT_TRUE(SameBits(values, SumInOrder(1, MpiAllreduce::kShort)));
  // What is not finite is not owed to later steps.
  std::vector<float> wide(100, std::numeric_limits<float>::infinity());
  allreduce->Start(wide);
  ASSERT_TRUE(allreduce->Finish(Soon()).ok());
  EXPECT_TRUE(std::isinf(wide[3]));
  wide.assign(100, 1.0f);
  allreduce->Start(wide);
  ASSERT_TRUE(allreduce->Finish(Soon()).ok());
  EXPECT_EQ(wide[3], static_cast<float>(allreduce->size()));
}

TEST(MpiAllreduce, ADeadlineNamesTheWorkerThatIsMissing) {
  const auto allreduce = Make({.bucket_bytes = 10'000});
  if (allreduce->size() == 1) GTEST_SKIP() << "nobody can be missing";
  const uint32_t absent = allreduce->size() / 2;
  if (allreduce->rank() != absent) {
    std::vector<float> values(100'000, 1.0f);
    allreduce->Start(values);
    const auto start = SteadyClock::now();
    const absl::Status status = allreduce->Finish(DeadlineIn(std::chrono::milliseconds(300)));
    EXPECT_LT(SteadyClock::now() - start, std::chrono::milliseconds(2000));
    ASSERT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                ::testing::EndsWith("worker " + std::to_string(absent)));
    values.clear();
    values.shrink_to_fit();
    // Nothing can be summed after it.
    std::vector<float> more(3);
    allreduce->Start(more);
    EXPECT_TRUE(absl::IsDeadlineExceeded(allreduce->Finish(Soon())));
  }
  testing::Barrier();
}

TEST(MpiAllreduce, DifferentLengthsAreAnError) {
  const auto allreduce = Make();
  if (allreduce->size() == 1) GTEST_SKIP() << "needs others";
  std::vector<float> values(allreduce->rank() == 0 ? 1000 : 1100);
  allreduce->Start(values);
  const absl::Status status = allreduce->Finish(DeadlineIn(std::chrono::milliseconds(500)));
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(allreduce->rank() > 0 || absl::IsFailedPrecondition(status)) << status;
  testing::Barrier();
}

}  // namespace
}  // namespace savior
