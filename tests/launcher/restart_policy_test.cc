// Every path of the state machine, with a clock that the test moves.

#include "launcher/restart_policy.h"

#include <gtest/gtest.h>

#include <csignal>
#include <optional>

#include "launcher/exit_code.h"

namespace savior {
namespace {

using Kind = Action::Kind;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kUsr1 = 128 + SIGUSR1;

class RestartPolicyTest : public ::testing::Test {
 protected:
  void Start() { ASSERT_EQ(policy_->At(now_).kind, Kind::kStart); }
  // A failure at newest commit `step`: how long until the next start; < 0: it ended.
  double WaitAfterFailure(int64_t step, int code = kExitFailed) {
    if (policy_->OnEnd({.code = code, .newest_commit = step}, now_).kind == Kind::kEnd) return -1;
    const auto wait = policy_->start_at() - now_;
    EXPECT_EQ(policy_->At(now_ + wait - milliseconds(1)).kind, Kind::kNone);
    now_ += wait;
    Start();
    return std::chrono::duration<double>(wait).count();
  }
  void ExpectEnd(const Action& action, Outcome outcome) {
    EXPECT_EQ(action.kind, Kind::kEnd);
    EXPECT_EQ(action.outcome, outcome);
    EXPECT_EQ(policy_->At(now_ + seconds(1000)).kind, Kind::kNone);
    EXPECT_EQ(policy_->OnStopRequest().kind, Kind::kNone);
  }

  SteadyClock::time_point now_{seconds(1000)};
  std::optional<RestartPolicy> policy_{std::in_place,
                                       RestartLimits{.in_a_row = 4, .first_wait = seconds(1)},
                                       /*newest_commit=*/-1, now_};
};

TEST_F(RestartPolicyTest, StartsAtOnceAndOnce) {
  EXPECT_TRUE(policy_->waiting());
  Start();
  EXPECT_FALSE(policy_->waiting());
  EXPECT_EQ(policy_->At(now_ + seconds(1000)).kind, Kind::kNone);
}

TEST_F(RestartPolicyTest, EndsWhenTheRunHasFinished) {
  Start();
  ExpectEnd(policy_->OnEnd({.code = 0, .newest_commit = 5, .finished = true}, now_),
            Outcome::kFinished);
}

TEST_F(RestartPolicyTest, RanksThatStoppedByThemselvesAreNotStartedAgain) {
  Start();
  ExpectEnd(policy_->OnEnd({.code = 0, .newest_commit = 5}, now_), Outcome::kStopped);
}

TEST_F(RestartPolicyTest, WaitsDoubleUntilItGivesUp) {
  Start();
  for (const double wait : {1, 2, 4, 8}) EXPECT_EQ(WaitAfterFailure(-1), wait);
  EXPECT_EQ(policy_->restarts(), 4);
  ExpectEnd(policy_->OnEnd({.code = 137, .newest_commit = -1}, now_), Outcome::kGaveUp);
}

TEST_F(RestartPolicyTest, ANewCommitStartsTheCountAfresh) {
  Start();
  EXPECT_EQ(WaitAfterFailure(-1), 1);
  EXPECT_EQ(WaitAfterFailure(-1), 2);
  EXPECT_EQ(WaitAfterFailure(10), 1);
  EXPECT_EQ(WaitAfterFailure(10), 2);
  EXPECT_EQ(policy_->failures_in_a_row(), 2);
  // The newest is damaged and gone: that is no progress.
  EXPECT_EQ(WaitAfterFailure(5), 4);
  EXPECT_EQ(WaitAfterFailure(10), 1);  // progress since then
  EXPECT_EQ(policy_->restarts(), 6);
}

TEST_F(RestartPolicyTest, CommitsOfFormerLaunchersAreNoProgress) {
  policy_.emplace(RestartLimits{.in_a_row = 1, .first_wait = seconds(1)}, /*newest_commit=*/7,
                  now_);
  Start();
  EXPECT_EQ(WaitAfterFailure(7), 1);
  ExpectEnd(policy_->OnEnd({.code = 1, .newest_commit = 7}, now_), Outcome::kGaveUp);
}

TEST_F(RestartPolicyTest, WaitsAreBounded) {
  policy_.emplace(RestartLimits{.in_a_row = 1000, .first_wait = seconds(7)}, -1, now_);
  Start();
  for (const double wait : {7, 14, 28, 56, 60, 60}) EXPECT_EQ(WaitAfterFailure(-1), wait);
  for (int i = 0; i < 900; ++i) EXPECT_EQ(WaitAfterFailure(-1), 60);  // nothing overflows
  policy_.emplace(RestartLimits{.in_a_row = 3, .first_wait = seconds(600)}, -1, now_);
  Start();
  EXPECT_EQ(WaitAfterFailure(-1), 60);
}

TEST_F(RestartPolicyTest, NoRestartsAtAllIfNoneAreAllowed) {
  policy_.emplace(RestartLimits{.in_a_row = 0}, -1, now_);
  Start();
  ExpectEnd(policy_->OnEnd({.code = 1, .newest_commit = -1}, now_), Outcome::kGaveUp);
}

TEST_F(RestartPolicyTest, BadInputIsNotTriedAgain) {
  Start();
  ExpectEnd(policy_->OnEnd({.code = kExitBadInput, .newest_commit = -1}, now_), Outcome::kBadInput);
}

TEST_F(RestartPolicyTest, ARequestAsksThenKills) {
  Start();
  EXPECT_EQ(policy_->OnStopRequest().kind, Kind::kAskToStop);
  EXPECT_EQ(policy_->OnStopRequest().kind, Kind::kKill);
  EXPECT_EQ(policy_->OnStopRequest().kind, Kind::kNone);
  ExpectEnd(policy_->OnEnd({.code = 143, .newest_commit = 3}, now_), Outcome::kKilled);
}

TEST_F(RestartPolicyTest, OnlyARequestThatInsistsKills) {
  Start();
  EXPECT_EQ(policy_->OnStopRequest(/*insists=*/false).kind, Kind::kAskToStop);
  EXPECT_EQ(policy_->OnStopRequest(/*insists=*/false).kind, Kind::kNone);
  EXPECT_EQ(policy_->OnStopRequest(/*insists=*/true).kind, Kind::kKill);
  ExpectEnd(policy_->OnEnd({.code = 143, .newest_commit = 3}, now_), Outcome::kKilled);
}

TEST_F(RestartPolicyTest, WhatEndsWhileAskedToIsNotStartedAgain) {
  struct Case {
    AttemptEnd end;
    Outcome outcome;
  };
  for (const Case& c : {Case{{.code = 0, .newest_commit = 3}, Outcome::kStopped},
                        Case{{.code = 0, .newest_commit = 3, .finished = true}, Outcome::kFinished},
                        Case{{.code = kUsr1, .newest_commit = -1}, Outcome::kStopped},
                        Case{{.code = 137, .newest_commit = 3}, Outcome::kStopFailed},
                        Case{{.code = 2, .newest_commit = -1}, Outcome::kBadInput}}) {
    policy_.emplace(RestartLimits{}, -1, now_);
    Start();
    EXPECT_EQ(policy_->OnStopRequest().kind, Kind::kAskToStop);
    ExpectEnd(policy_->OnEnd(c.end, now_), c.outcome);
  }
}

TEST_F(RestartPolicyTest, ARequestDuringAWaitEndsIt) {
  ExpectEnd(policy_->OnStopRequest(), Outcome::kStopped);  // before the first start
  policy_.emplace(RestartLimits{}, -1, now_);
  Start();
  EXPECT_EQ(policy_->OnEnd({.code = 1, .newest_commit = -1}, now_).kind, Kind::kNone);
  ExpectEnd(policy_->OnStopRequest(), Outcome::kStopped);
}

}  // namespace
}  // namespace savior
