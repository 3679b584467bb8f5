#include "ps/sequence_window.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "common/random.h"

namespace savior {
namespace {

using Verdict = SequenceWindow::Verdict;

TEST(SequenceWindow, ANumberIsNewUntilItIsMarked) {
  SequenceWindow window;
  for (uint64_t sequence = 1; sequence < 500; ++sequence) {
    EXPECT_EQ(window.Look(sequence), Verdict::kNew);
    window.Mark(sequence);
    EXPECT_EQ(window.Look(sequence), Verdict::kApplied);
  }
}

TEST(SequenceWindow, TheLast64AreRememberedAndOlderOnesCannotBeTold) {
  SequenceWindow window;
  for (uint64_t sequence = 1; sequence <= 100; sequence += 2) window.Mark(sequence);
  EXPECT_EQ(window.Look(99 - 64), Verdict::kTooOld);
  EXPECT_EQ(window.Look(99 - 63), Verdict::kNew);  // even: not applied
  EXPECT_EQ(window.Look(99 - 62), Verdict::kApplied);
  window.Mark(99 - 63);
  EXPECT_EQ(window.Look(99 - 63), Verdict::kApplied);
}

TEST(SequenceWindow, JumpsOfAnyWidthWork) {
  for (const uint64_t jump : {1u, 2u, 63u, 64u, 65u, 1000u}) {
    SequenceWindow window;
    window.Mark(1);
    window.Mark(1 + jump);
    EXPECT_EQ(window.Look(1 + jump), Verdict::kApplied);
    EXPECT_EQ(window.Look(1), jump < 64 ? Verdict::kApplied : Verdict::kTooOld);
    if (jump > 1) {
      EXPECT_EQ(window.Look(jump), Verdict::kNew);
    }
  }
  SequenceWindow last;
  last.Mark(UINT64_MAX);
  EXPECT_EQ(last.Look(UINT64_MAX), Verdict::kApplied);
  EXPECT_EQ(last.Look(1), Verdict::kTooOld);
}

// A client that keeps to its bound, over a network that loses, doubles and reorders: every request
// is applied exactly once, and none is ever refused.
TEST(SequenceWindow, EveryRequestIsAppliedOnceWhateverTheNetworkDoes) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    SequenceWindow window;
    std::vector<uint64_t> network;  // copies under way
    std::set<uint64_t> unanswered;
    std::vector<int> applied(401, 0);
    uint64_t next = 1;
    while (next <= 400 || !unanswered.empty()) {
      const bool room = unanswered.empty() || next - *unanswered.begin() < kSequenceWindow;
      if (next <= 400 && room && random.Below(2) == 0) {
        unanswered.insert(next);
        network.push_back(next++);
      } else if (!unanswered.empty() && random.Below(3) == 0) {
        auto retried = unanswered.begin();
        std::advance(retried, random.Below(unanswered.size()));
        network.push_back(*retried);
      }
      if (network.empty()) continue;
      const size_t at = random.Below(network.size());
      const uint64_t sequence = network[at];
      if (random.Below(4) != 0) network.erase(network.begin() + static_cast<int64_t>(at));
      if (random.Below(5) == 0) continue;  // lost on its way
      switch (window.Look(sequence)) {
        case Verdict::kNew:
          ++applied[sequence];
          window.Mark(sequence);
          break;
        case Verdict::kApplied:
          break;
        case Verdict::kTooOld:
          // Only of copies whose original has been answered.
          ASSERT_FALSE(unanswered.contains(sequence));
          continue;
      }
      if (random.Below(5) != 0) unanswered.erase(sequence);  // else the reply is lost
    }
    for (uint64_t sequence = 1; sequence <= 400; ++sequence) ASSERT_EQ(applied[sequence], 1);
  }
}

TEST(SequenceWindows, ClientsDoNotDisturbEachOther) {
  SequenceWindows windows;
  EXPECT_TRUE(*windows.IsNew(1, 5));
  windows.Mark(1, 5);
  EXPECT_FALSE(*windows.IsNew(1, 5));
  EXPECT_TRUE(*windows.IsNew(2, 5));
  windows.Mark(1, 500);
  EXPECT_TRUE(absl::IsFailedPrecondition(windows.IsNew(1, 5).status()));
  EXPECT_TRUE(*windows.IsNew(2, 5));
  EXPECT_TRUE(absl::IsInvalidArgument(windows.IsNew(1, 0).status()));
}

TEST(SequenceWindows, NoClientIsForgottenAndTooManyAreRefused) {
  SequenceWindows windows;
  for (uint64_t client = 0; client < SequenceWindows::kMaxClients; ++client) {
    ASSERT_TRUE(windows.IsNew(client, 1).ok());
    windows.Mark(client, 1);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(windows.IsNew(UINT64_MAX, 1).status()));
  EXPECT_FALSE(*windows.IsNew(0, 1));
  EXPECT_TRUE(*windows.IsNew(0, 2));
}

}  // namespace
}  // namespace savior
