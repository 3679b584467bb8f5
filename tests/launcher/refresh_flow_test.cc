#include "launcher/refresh_flow.h"

#include <gtest/gtest.h>

namespace savior {
namespace {

constexpr RefreshVotes kNone = {};
constexpr RefreshVotes kBegin = {.begin = true};
constexpr RefreshVotes kBusy = {.busy = true};
constexpr RefreshVotes kGiveUp = {.give_up = true};

TEST(RefreshFlow, FromBeginToRetired) {
  RefreshFlow flow({.probation_steps = 10});
  EXPECT_EQ(flow.AfterStep(1, kNone), RefreshAction::kNone);
  EXPECT_EQ(flow.AfterStep(2, kBegin), RefreshAction::kBegin);
  EXPECT_EQ(flow.AfterStep(3, kBusy), RefreshAction::kNone);
  EXPECT_EQ(flow.AfterStep(4, kNone), RefreshAction::kJudge);
  EXPECT_EQ(flow.Judged(true), RefreshAction::kPrepare);
  EXPECT_EQ(flow.AfterStep(5, kNone), RefreshAction::kSwitch);
  EXPECT_EQ(flow.since(), 5);
  for (int64_t step = 6; step < 15; ++step) {
    EXPECT_EQ(flow.AfterStep(step, kBegin), RefreshAction::kNone) << "one at a time";
  }
  EXPECT_EQ(flow.AfterStep(15, kNone), RefreshAction::kRetire);
  EXPECT_EQ(flow.AfterStep(16, kBegin), RefreshAction::kBegin);
}

TEST(RefreshFlow, SwitchesAtAStepThatIsGiven) {
  RefreshFlow flow({.switch_after_steps = 5, .probation_steps = 10});
  EXPECT_EQ(flow.AfterStep(100, kBegin), RefreshAction::kBegin);
  for (int64_t step = 101; step < 105; ++step) {
    EXPECT_EQ(flow.AfterStep(step, kNone), RefreshAction::kNone) << "not before";
  }
  // Not ready, but due: training waits.
  EXPECT_EQ(flow.AfterStep(105, kBusy), RefreshAction::kJudge);
  EXPECT_EQ(flow.Judged(true), RefreshAction::kSwitch);
  EXPECT_EQ(flow.since(), 105);
  EXPECT_EQ(flow.state(), RefreshState::kProbation);
}

TEST(RefreshFlow, WhatIsNotGoodIsGivenUp) {
  for (const int64_t after : {0, 3}) {
    RefreshFlow flow({.switch_after_steps = after, .probation_steps = 10});
    EXPECT_EQ(flow.AfterStep(1, kBegin), RefreshAction::kBegin);
    EXPECT_EQ(flow.AfterStep(2, kGiveUp), RefreshAction::kAbort);
    EXPECT_EQ(flow.AfterStep(3, kBegin), RefreshAction::kBegin) << "and may be tried again";
    RefreshAction action = RefreshAction::kNone;
    for (int64_t step = 4; action == RefreshAction::kNone; ++step) {
      action = flow.AfterStep(step, kNone);
    }
    EXPECT_EQ(action, RefreshAction::kJudge);
    EXPECT_EQ(flow.Judged(false), RefreshAction::kAbort);
    EXPECT_EQ(flow.state(), RefreshState::kIdle);
  }
}

TEST(RefreshFlow, TheStepOfTheBeginIsNotItsEnd) {
  RefreshFlow flow({});
  EXPECT_EQ(flow.AfterStep(7, kBegin), RefreshAction::kBegin);
  // Votes of the next step were given before anybody had a thread to be busy: they say nothing.
  EXPECT_EQ(flow.AfterStep(7, kNone), RefreshAction::kNone);
}

TEST(RefreshFlow, GoesOnInProbation) {
  RefreshFlow flow({.probation_steps = 10});
  flow.StartInProbation(50);
  EXPECT_EQ(flow.AfterStep(55, kBegin), RefreshAction::kNone);
  EXPECT_EQ(flow.AfterStep(60, kBegin), RefreshAction::kRetire);
}

TEST(RefreshFlow, WithoutProbationTheNextStepRetires) {
  RefreshFlow flow({});
  EXPECT_EQ(flow.AfterStep(1, kBegin), RefreshAction::kBegin);
  EXPECT_EQ(flow.AfterStep(2, kNone), RefreshAction::kJudge);
  EXPECT_EQ(flow.Judged(true), RefreshAction::kPrepare);
  EXPECT_EQ(flow.AfterStep(3, kNone), RefreshAction::kSwitch);
  EXPECT_EQ(flow.AfterStep(4, kNone), RefreshAction::kRetire);
}

// Workers that get the same votes are in the same state, whatever the votes.
TEST(RefreshFlow, ReplicasAgree) {
  RefreshFlow a({.probation_steps = 3}), b({.probation_steps = 3});
  uint32_t bits = 1;
  for (int64_t step = 1; step < 2000; ++step) {
    bits = bits * 1664525u + 1013904223u;
    const RefreshVotes votes = {(bits >> 28) == 0, (bits >> 20 & 3) != 0, (bits >> 10 & 31) == 0};
    RefreshAction action = a.AfterStep(step, votes);
    EXPECT_EQ(action, b.AfterStep(step, votes));
    if (action != RefreshAction::kJudge) continue;
    const bool good = (bits >> 5 & 1) != 0;
    EXPECT_EQ(a.Judged(good), b.Judged(good));
    EXPECT_EQ(a.state(), b.state());
  }
}

}  // namespace
}  // namespace savior
