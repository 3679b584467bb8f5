#include "ps/step_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "common/random.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

TEST(StepClock, SynchronousPullsWaitForEveryWorker) {
  StepClock clock({.workers = 2, .staleness = 0, .first_step = 10});
  EXPECT_TRUE(clock.MayPull(10));
  EXPECT_FALSE(clock.MayPull(11));
  clock.Push(1, 10, 1);
  EXPECT_FALSE(clock.MayPull(11));
  EXPECT_EQ(clock.slowest(), 0u);
  EXPECT_TRUE(clock.Completes(0, 10, 1));
  clock.Push(0, 10, 1);
  EXPECT_TRUE(clock.MayPull(11));
  EXPECT_FALSE(clock.MayPull(12));
  EXPECT_EQ(clock.done(), 11);
}

TEST(StepClock, APushIsHereWhenAllOfItsMessagesAre) {
  StepClock clock({.workers = 1});
  clock.Push(0, 0, 3);
  EXPECT_FALSE(clock.Completes(0, 0, 3));
  clock.Push(0, 0, 3);
  EXPECT_EQ(clock.done(), 0);
  EXPECT_TRUE(clock.Completes(0, 0, 3));
  clock.Push(0, 0, 3);
  EXPECT_EQ(clock.done(), 1);
}

TEST(StepClock, BoundedPullsRunAheadByTheBoundOnly) {
  StepClock clock({.workers = 2, .staleness = 2});
  EXPECT_TRUE(clock.MayPull(2));
  EXPECT_FALSE(clock.MayPull(3));
  // One worker far ahead, its pushes out of order: the other one holds all back.
  for (const int64_t step : {2, 0, 1}) clock.Push(0, step, 1);
  EXPECT_FALSE(clock.MayPull(3));
  clock.Push(1, 0, 1);
  EXPECT_TRUE(clock.MayPull(3));
  EXPECT_FALSE(clock.MayPull(4));
}

TEST(StepClock, AsynchronousPullsNeverWait) {
  StepClock clock({.workers = 3, .staleness = kAsynchronous});
  EXPECT_TRUE(clock.MayPull(1000));
  clock.CountPull(40, false);
  EXPECT_EQ(clock.stats().max_staleness, 40u);
}

TEST(StepClock, RefusesWhatDoesNotFit) {
  StepClock clock({.workers = 2, .staleness = 0, .first_step = 5});
  EXPECT_TRUE(absl::IsInvalidArgument(clock.CheckPush(2, 5, 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(clock.CheckPush(0, 5, 0)));
  EXPECT_TRUE(absl::IsFailedPrecondition(clock.CheckPush(0, 4, 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(clock.CheckPush(0, 6, 1)));
  EXPECT_TRUE(clock.CheckPush(0, 5, 2).ok());
  clock.Push(0, 5, 2);
  const absl::Status other_parts = clock.CheckPush(0, 5, 3);
  EXPECT_TRUE(absl::IsFailedPrecondition(other_parts));
  EXPECT_THAT(other_parts.message(), HasSubstr("1 of 2"));
  clock.Push(0, 5, 2);
  // Done by this worker, open for the other one.
  EXPECT_TRUE(absl::IsFailedPrecondition(clock.CheckPush(0, 5, 2)));
  EXPECT_TRUE(absl::IsFailedPrecondition(clock.CheckPush(0, 6, 1)));
  EXPECT_TRUE(clock.CheckPush(1, 5, 1).ok());

  StepClock bounded({.workers = 1, .staleness = 3});
  EXPECT_TRUE(bounded.CheckPush(0, StepClock::kWindow - 1, 1).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(bounded.CheckPush(0, StepClock::kWindow, 1)));
}

// Workers of different speeds, pushes in any order within what is in flight: whatever a pull is let
// through at lacks no more steps than the bound, and nobody is stuck.
TEST(StepClock, StalenessNeverExceedsTheBound) {
  for (const int64_t staleness : {0, 1, 4}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SCOPED_TRACE(testing::Message() << "staleness " << staleness << ", seed " << seed);
      constexpr uint32_t kWorkers = 3;
      StepClock clock({.workers = kWorkers, .staleness = staleness});
      Random random(seed, 1);
      std::vector<int64_t> pulls(kWorkers, 0), pushes(kWorkers, 0);
      std::vector<int64_t> pushed_steps(kWorkers, 0);
      for (int moves = 0; moves < 5000; ++moves) {
        const auto w = static_cast<uint32_t>(random.Below(10) < 8 ? random.Below(2) : 2);
        if (pulls[w] == pushes[w] || random.Below(2) == 0) {
          if (pulls[w] - pushes[w] >= 8 || !clock.MayPull(pulls[w])) continue;
          clock.CountPull(pulls[w]++, false);
        } else {
          ASSERT_TRUE(clock.CheckPush(w, pushes[w], 1).ok());
          clock.Push(w, pushes[w]++, 1);
        }
      }
      EXPECT_LE(clock.stats().max_staleness, static_cast<uint64_t>(staleness));
      EXPECT_GT(clock.done(), 100);
      for (uint32_t w = 0; w < kWorkers; ++w) EXPECT_LE(pulls[w], clock.done() + staleness + 1);
    }
  }
}

}  // namespace
}  // namespace savior
