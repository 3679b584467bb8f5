#include "launcher/publish_policy.h"

#include <gtest/gtest.h>

namespace savior {
namespace {

using Kind = PublishAction::Kind;
constexpr PublishAction kNothing, kCommit{.kind = Kind::kCommit}, kFull{.kind = Kind::kFull};

PublishAction DeltaSince(int64_t step) { return {.kind = Kind::kDelta, .since = step}; }

class PublishPolicyTest : public testing::Test {
 protected:
  Deadline At(double seconds) const { return start_ + Milliseconds(seconds); }

  const Deadline start_ = SteadyClock::now();
  PublishPolicy policy_{60, 2, start_};
};

TEST_F(PublishPolicyTest, WaitsForItsTimeThenForACommitThenExports) {
  EXPECT_EQ(policy_.Next(At(59.9), 10, 10, 10, false), kNothing);
  EXPECT_EQ(policy_.Next(At(60), 10, 9, 9, false), kCommit);
  EXPECT_EQ(policy_.Next(At(60), 10, -1, -1, false), kCommit) << "there was none yet";
  EXPECT_EQ(policy_.Next(At(60), 11, 11, 11, false), kFull);
}

TEST_F(PublishPolicyTest, ACommitThatIsThereAnywayIsUsed) {
  EXPECT_EQ(policy_.Next(At(61), 10, 10, 10, false), kFull);
}

TEST_F(PublishPolicyTest, ACommitThatIsBeingWrittenIsWaitedForAndUsedWhenItIsThere) {
  EXPECT_EQ(policy_.Next(At(60), 10, 5, 9, false), kCommit) << "the one under way is of before";
  EXPECT_EQ(policy_.Next(At(61), 12, 9, 9, false), kCommit);
  EXPECT_EQ(policy_.Next(At(62), 12, 9, 12, false), kNothing);
  EXPECT_EQ(policy_.Next(At(63), 20, 9, 12, false), kNothing);
  EXPECT_EQ(policy_.Next(At(64), 25, 12, -1, false), kFull);
  policy_.Started(At(64));
  policy_.Found(ChainEnd{12, 0});
  EXPECT_EQ(policy_.Next(At(124), 40, 12, 12, false), kCommit) << "that one is exported";
}

TEST_F(PublishPolicyTest, OneAtATimeAndEverySFromStartToStart) {
  policy_.Started(At(60));
  policy_.Found(ChainEnd{11, 0});
  EXPECT_EQ(policy_.Next(At(119.9), 20, 20, 20, false), kNothing);
  EXPECT_EQ(policy_.Next(At(130), 20, 20, 20, true), kNothing) << "one runs";
  EXPECT_EQ(policy_.Next(At(130), 20, 20, 20, false), DeltaSince(11))
      << "at once when it has ended";
}

TEST_F(PublishPolicyTest, AFullBundleAfterSoManyDeltas) {
  policy_.Found(ChainEnd{10, 0});
  EXPECT_EQ(policy_.Export(20), DeltaSince(10));
  policy_.Found(ChainEnd{20, 1});
  EXPECT_EQ(policy_.Export(30), DeltaSince(20));
  policy_.Found(ChainEnd{30, 2});
  EXPECT_EQ(policy_.Export(40), kFull);
  PublishPolicy always_full(60, 0, start_);
  always_full.Found(ChainEnd{10, 0});
  EXPECT_EQ(always_full.Export(20), kFull);
}

TEST_F(PublishPolicyTest, NothingTwice) {
  policy_.Found(ChainEnd{10, 0});
  EXPECT_EQ(policy_.Export(10), kNothing);
  EXPECT_EQ(policy_.Next(At(99), 10, 10, 10, false), kNothing);
  EXPECT_EQ(policy_.Next(At(99), 10, 5, 5, false), kNothing) << "nor a commit for it";
}

TEST_F(PublishPolicyTest, ARunBehindItsBundlesStartsAChain) {
  policy_.Found(ChainEnd{50, 0});
  EXPECT_EQ(policy_.Export(40), kFull);
}

TEST_F(PublishPolicyTest, AfterAFailureAFullBundleWhenTheNextIsDue) {
  policy_.Found(ChainEnd{10, 0});
  policy_.Started(At(60));
  policy_.Found(std::nullopt);
  EXPECT_EQ(policy_.Next(At(61), 20, 20, 20, false), kNothing);
  EXPECT_EQ(policy_.Next(At(120), 20, 20, 20, false), kFull);
}

TEST_F(PublishPolicyTest, WithoutAnIntervalNothingIsEverDue) {
  PublishPolicy never(0, 2, start_);
  EXPECT_EQ(never.Next(At(1e6), 10, 10, 10, false), kNothing);
  EXPECT_EQ(never.Export(10), kFull) << "but the last one";
}

}  // namespace
}  // namespace savior
