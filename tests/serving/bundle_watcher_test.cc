#include "serving/bundle_watcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <stdexcept>
#include <string>

#include "tests/serving/fake_scorer.h"

namespace savior {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

const Deadline kStart = Deadline(seconds(1000));

TEST(ReloadPolicy, LoadsWhatIsNewOnce) {
  ReloadPolicy policy(seconds(2), seconds(10));
  EXPECT_TRUE(policy.ShouldLoad("a", kStart));
  policy.Loaded("a");
  EXPECT_FALSE(policy.ShouldLoad("a", kStart + seconds(1000)));
  EXPECT_TRUE(policy.ShouldLoad("b", kStart));
}

TEST(ReloadPolicy, WaitsLongerAfterEachFailure) {
  ReloadPolicy policy(seconds(2), seconds(10));
  Deadline now = kStart;
  EXPECT_TRUE(policy.Failed("a", now));  // news
  for (const int wait : {2, 4, 8, 10, 10}) {
    EXPECT_FALSE(policy.ShouldLoad("a", now + seconds(wait) - milliseconds(1))) << wait;
    EXPECT_TRUE(policy.ShouldLoad("a", now + seconds(wait))) << wait;
    now += seconds(wait);
    EXPECT_FALSE(policy.Failed("a", now)) << wait;
  }
}

TEST(ReloadPolicy, AnotherVersionIsTriedAtOnceAndBeginsAnew) {
  ReloadPolicy policy(seconds(2), seconds(10));
  policy.Failed("a", kStart);
  policy.Failed("a", kStart);
  EXPECT_TRUE(policy.ShouldLoad("b", kStart));
  EXPECT_TRUE(policy.Failed("b", kStart));
  EXPECT_TRUE(policy.ShouldLoad("b", kStart + seconds(2)));
  policy.Loaded("c");
  EXPECT_TRUE(policy.Failed("b", kStart));  // of a version that was left and came back
}

class BundleWatcherTest : public ::testing::Test {
 protected:
  BundleWatcher Make(WatcherOptions options = {}) {
    return BundleWatcher(
        options, [this] { return version_; },
        [this]() -> absl::StatusOr<std::shared_ptr<const Scorer>> {
          ++loads_;
          if (throws_) throw std::runtime_error("bad bytes");
          if (!failure_.ok()) return failure_;
          return std::make_shared<FakeScorer>(step_);
        },
        current_, metrics_);
  }

  int64_t Step() const {
    const auto scorer = current_.Get();
    return scorer == nullptr ? -1 : scorer->card().step;
  }

  absl::StatusOr<std::string> version_ = std::string("v1");
  int64_t step_ = 1;
  int loads_ = 0;
  bool throws_ = false;
  absl::Status failure_;
  CurrentScorer current_;
  ServingMetrics metrics_;
};

TEST_F(BundleWatcherTest, SwapsWhenTheVersionChanges) {
  auto watcher = Make();
  EXPECT_EQ(watcher.Poll(kStart).value(), true);
  EXPECT_EQ(Step(), 1);
  step_ = 2;
  EXPECT_EQ(watcher.Poll(kStart).value(), false);
  EXPECT_EQ(Step(), 1);
  version_ = std::string("v2");
  EXPECT_EQ(watcher.Poll(kStart).value(), true);
  EXPECT_EQ(Step(), 2);
  EXPECT_EQ(loads_, 2);
  EXPECT_THAT(metrics_.Text(), HasSubstr("savior_reloads_total{result=\"ok\"} 2"));
}

TEST_F(BundleWatcherTest, AFailingLoadLeavesTheOldOneAndIsTriedAgain) {
  auto watcher = Make({.retry_s = 2});
  ASSERT_TRUE(watcher.Poll(kStart).ok());
  version_ = std::string("v2");
  step_ = 2;
  failure_ = absl::DataLossError("items.bin: wrong digest");
  const auto failed = watcher.Poll(kStart);
  EXPECT_TRUE(absl::IsDataLoss(failed.status()));
  EXPECT_EQ(std::string(failed.status().message()), "loading bundle v2: items.bin: wrong digest");
  EXPECT_EQ(Step(), 1);
  EXPECT_EQ(watcher.Poll(kStart + seconds(1)).value(), false);  // not yet again
  EXPECT_EQ(loads_, 2);
  EXPECT_FALSE(watcher.Poll(kStart + seconds(2)).ok());
  EXPECT_EQ(loads_, 3);
  EXPECT_THAT(metrics_.Text(), HasSubstr("savior_reloads_total{result=\"failed\"} 2"));
  failure_ = absl::OkStatus();
  EXPECT_EQ(watcher.Poll(kStart + seconds(6)).value(), true);
  EXPECT_EQ(Step(), 2);
}

TEST_F(BundleWatcherTest, ALoaderThatThrowsHasFailed) {
  auto watcher = Make();
  throws_ = true;
  EXPECT_THAT(std::string(watcher.Poll(kStart).status().message()), HasSubstr("bad bytes"));
  EXPECT_EQ(Step(), -1);
}

TEST_F(BundleWatcherTest, WhenNobodyKnowsWhatIsCurrentNothingChanges) {
  auto watcher = Make();
  ASSERT_TRUE(watcher.Poll(kStart).ok());
  version_ = absl::NotFoundError("current: No such file");
  EXPECT_TRUE(absl::IsNotFound(watcher.Poll(kStart).status()));
  EXPECT_EQ(Step(), 1);
  EXPECT_EQ(loads_, 1);
}

TEST_F(BundleWatcherTest, TheOldScorerLivesAsLongAsItsLastRequest) {
  auto watcher = Make();
  ASSERT_TRUE(watcher.Poll(kStart).ok());
  auto held = current_.Get();
  const std::weak_ptr<const Scorer> old = held;
  version_ = std::string("v2");
  ASSERT_TRUE(watcher.Poll(kStart).ok());
  EXPECT_FALSE(old.expired());
  held.reset();
  EXPECT_TRUE(old.expired());
}

TEST(BundleWatcherThread, FindsANewVersionByItself) {
  CurrentScorer current;
  ServingMetrics metrics;
  std::atomic<int> version = 1;
  std::latch second(1);
  BundleWatcher watcher(
      {.poll_s = 0.001},
      [&] { return absl::StatusOr<std::string>(std::to_string(version.load())); },
      [&]() -> absl::StatusOr<std::shared_ptr<const Scorer>> {
        const int loading = version;
        if (loading == 2) second.count_down();
        return std::make_shared<FakeScorer>(loading);
      },
      current, metrics);
  ASSERT_TRUE(watcher.Poll(SteadyClock::now()).ok());
  watcher.Start();
  version = 2;
  second.wait();
  watcher.Stop();  // ends after the swap
  EXPECT_EQ(current.Get()->card().step, 2);
}

TEST(BundleWatcherThread, StopDoesNotWaitForTheNextPoll) {
  CurrentScorer current;
  ServingMetrics metrics;
  BundleWatcher watcher(
      {.poll_s = 1e6}, [] { return absl::StatusOr<std::string>("v"); },
      [] { return absl::StatusOr<std::shared_ptr<const Scorer>>(std::make_shared<FakeScorer>(1)); },
      current, metrics);
  watcher.Start();
  watcher.Stop();
  EXPECT_EQ(current.Get(), nullptr);
}

}  // namespace
}  // namespace savior
