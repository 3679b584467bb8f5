// The way of a commit, driven without a thread, a socket, a disk or a clock.
#include "launcher/commit_flow.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace savior {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> calls;  // in their order
Deadline now;

class FakeShards final : public CommitShards {
 public:
  absl::Status Freeze(int64_t step) override {
    calls.push_back("freeze " + std::to_string(step));
    now += std::chrono::milliseconds(3);
    return frozen;
  }
  absl::StatusOr<bool> Written(int64_t) override {
    calls.emplace_back("written?");
    return written;
  }
  absl::Status frozen;
  absl::StatusOr<bool> written = true;
};

class FakeFiles final : public CommitFiles {
 public:
  absl::Status Begin(int64_t step) override {
    calls.push_back("begin " + std::to_string(step));
    return begun;
  }
  absl::Status WriteOwn(int64_t) override {
    calls.emplace_back("own");
    return own;
  }
  absl::Status Publish(int64_t step) override {
    calls.push_back("publish " + std::to_string(step));
    return published;
  }
  void Discard(int64_t step) override { calls.push_back("discard " + std::to_string(step)); }
  absl::Status begun, own, published;
};

class CommitFlowTest : public testing::Test {
 protected:
  CommitFlowTest() {
    calls.clear();
    now = Deadline() + std::chrono::hours(1);
  }
  // Until it ends, or has to wait.
  void Advance() {
    while (flow_.Advance()) {
    }
  }

  FakeShards shards_;
  FakeFiles files_;
  CommitFlow flow_{
      &shards_, &files_, {.limit = std::chrono::seconds(100), .now = [] { return now; }}};
};

TEST_F(CommitFlowTest, FreezesWritesAndPublishesInThisOrder) {
  EXPECT_EQ(flow_.state(), CommitState::kIdle);
  EXPECT_FALSE(flow_.Advance());
  ASSERT_TRUE(flow_.Freeze(7).ok());
  EXPECT_EQ(flow_.state(), CommitState::kWriting);
  EXPECT_EQ(flow_.frozen_for(), std::chrono::milliseconds(3));
  shards_.written = false;
  Advance();
  EXPECT_EQ(flow_.state(), CommitState::kWriting);
  EXPECT_THAT(calls, ElementsAre("begin 7", "freeze 7", "own", "written?"));
  calls.clear();
  shards_.written = true;
  EXPECT_TRUE(flow_.Advance());
  EXPECT_EQ(flow_.state(), CommitState::kPublishing);
  EXPECT_TRUE(flow_.under_way());
  Advance();
  EXPECT_EQ(flow_.state(), CommitState::kDone);
  EXPECT_THAT(calls, ElementsAre("written?", "publish 7"));
  EXPECT_TRUE(flow_.failure().ok());
  ASSERT_TRUE(flow_.Freeze(8).ok());
  Advance();
  EXPECT_EQ(flow_.state(), CommitState::kDone);
  EXPECT_EQ(flow_.step(), 8);
}

// Others may be writing into the folder: it goes when they are done.
TEST_F(CommitFlowTest, AShardThatDoesNotFreezeFailsTheCommitWhenTheOthersHaveEnded) {
  shards_.frozen = absl::ResourceExhaustedError("shard 1 is full");
  shards_.written = false;
  EXPECT_EQ(flow_.Freeze(7), shards_.frozen);
  EXPECT_FALSE(flow_.Advance());
  EXPECT_TRUE(flow_.under_way());
  EXPECT_THAT(calls, ElementsAre("begin 7", "freeze 7", "written?"));
  calls.clear();
  shards_.written = absl::FailedPreconditionError("shard 1 has none");
  Advance();
  EXPECT_EQ(flow_.state(), CommitState::kFailed);
  EXPECT_EQ(flow_.failure(), absl::ResourceExhaustedError("shard 1 is full")) << "the reason";
  EXPECT_THAT(calls, ElementsAre("written?", "discard 7"));
  shards_ = {};
  ASSERT_TRUE(flow_.Freeze(8).ok());
  Advance();
  EXPECT_EQ(flow_.state(), CommitState::kDone);
  EXPECT_TRUE(flow_.failure().ok());
}

TEST_F(CommitFlowTest, WithoutAFolderNoShardFreezes) {
  files_.begun = absl::ResourceExhaustedError("no room");
  EXPECT_EQ(flow_.Freeze(7), files_.begun);
  shards_.written = absl::FailedPreconditionError("none was begun");
  Advance();
  EXPECT_EQ(flow_.failure(), files_.begun);
  EXPECT_THAT(calls, ElementsAre("begin 7", "written?", "discard 7"));
}

TEST_F(CommitFlowTest, AFailureAtAnyLaterStepDiscardsTheFolder) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  files_.own = full;
  ASSERT_TRUE(flow_.Freeze(1).ok());
  Advance();
  EXPECT_EQ(flow_.failure(), full);
  EXPECT_EQ(calls.back(), "discard 1");
  files_.own = absl::OkStatus();
  shards_.written = full;
  ASSERT_TRUE(flow_.Freeze(2).ok());
  Advance();
  EXPECT_EQ(flow_.failure(), full);
  EXPECT_EQ(calls.back(), "discard 2");
  shards_.written = true;
  files_.published = full;
  ASSERT_TRUE(flow_.Freeze(3).ok());
  Advance();
  EXPECT_EQ(flow_.failure(), full);
  EXPECT_EQ(calls.back(), "discard 3");
  EXPECT_EQ(flow_.state(), CommitState::kFailed);
}

TEST_F(CommitFlowTest, ShardsThatNeverEndAreGivenUpAfterTheLimit) {
  shards_.written = false;
  ASSERT_TRUE(flow_.Freeze(7).ok());
  Advance();
  now += std::chrono::seconds(99);
  EXPECT_FALSE(flow_.Advance());
  now += std::chrono::seconds(1);
  EXPECT_TRUE(flow_.Advance());
  EXPECT_EQ(flow_.state(), CommitState::kFailed);
  EXPECT_TRUE(absl::IsDeadlineExceeded(flow_.failure())) << flow_.failure();
}

}  // namespace
}  // namespace savior
