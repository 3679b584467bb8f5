#include "launcher/control.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/random.h"
#include "tests/faults/figure.h"

namespace savior {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

Deadline At(int ms) { return Deadline() + milliseconds(ms); }

Membership Three(milliseconds lease = milliseconds(100)) {
  return Membership({"rank 0 (server on a)", "rank 1 (worker on a)", "rank 2 (worker on b)"},
                    {1, 2}, lease, At(0));
}

TEST(Membership, FinishesWhenAllWorkersHave) {
  Membership members = Three();
  members.Finished(1);
  EXPECT_EQ(members.Check(At(50)).state, RunState::kRunning);
  members.Finished(2);
  EXPECT_EQ(members.Check(At(50)).state, RunState::kFinished);
  // What comes later is not the run's failure.
  members.Failed(0, "late", 1);
  EXPECT_EQ(members.Check(At(5000)).state, RunState::kFinished);
}

TEST(Membership, TheSilentOneIsNamed) {
  Membership members = Three();
  for (int t = 0; t <= 100; t += 10) {
    members.Alive(0, At(t));
    members.Alive(1, At(t));
    EXPECT_EQ(members.Check(At(t)).state, RunState::kRunning);
  }
  const Verdict& verdict = members.Check(At(101));
  EXPECT_EQ(verdict.state, RunState::kFailed);
  EXPECT_THAT(verdict.text, AllOf(HasSubstr("rank 2 (worker on b)"), HasSubstr("0.1 s")));
}

TEST(Membership, WhatAProcessSaysOfAnotherIsThatOnes) {
  Membership members = Three();
  members.Failed(0, "rank 2 (worker on b): disk full", 7);
  EXPECT_EQ(members.verdict().text, "rank 2 (worker on b): disk full");
}

TEST(Membership, TheFirstFailureIsTheRuns) {
  Membership members = Three();
  members.AskToStop();
  EXPECT_EQ(members.verdict().state, RunState::kStopping);
  members.Failed(2, "disk full", 7);
  members.Failed(1, "no answer from rank 2", 1);
  members.Finished(1);
  members.Finished(2);
  EXPECT_EQ(members.verdict().state, RunState::kFailed);
  EXPECT_EQ(members.verdict().text, "rank 2 (worker on b): disk full");
  EXPECT_EQ(members.verdict().exit_code, 7);
}

TEST(Membership, WhoHasLeftNeedNotBeHeard) {
  Membership members = Three();
  for (const uint32_t rank : {0u, 1u, 2u}) {
    EXPECT_FALSE(members.over());
    members.Left(rank);
  }
  EXPECT_TRUE(members.over());
  EXPECT_EQ(members.Check(At(9999)).state, RunState::kRunning);
}

// Real sockets.
class ControlTest : public testing::Test {
 protected:
  static constexpr uint64_t kRun = 77;

  void Start(milliseconds lease) {
    lease_ = lease;
    auto coordinator =
        Coordinator::Start(&context_, "tcp://127.0.0.1:0", {}, kRun,
                           Membership({"rank 0", "rank 1"}, {0, 1}, lease, SteadyClock::now()));
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = *std::move(coordinator);
  }
  std::unique_ptr<ControlLink> Join(uint32_t rank, std::atomic<int>* state = nullptr,
                                    uint64_t run = kRun) {
    auto link = ControlLink::Start(
        &context_,
        {.endpoint = coordinator_->endpoint(), .run = run, .rank = rank, .lease = lease_},
        [state](const Verdict& verdict) {
          if (state != nullptr) *state = static_cast<int>(verdict.state);
        });
    EXPECT_TRUE(link.ok()) << link.status();
    return *std::move(link);
  }

  Context context_;
  milliseconds lease_{5000};
  std::unique_ptr<Coordinator> coordinator_;
};

TEST_F(ControlTest, ARunThatFinishes) {
  Start(milliseconds(5000));
  const auto one = Join(0), two = Join(1);
  one->ReportFinished();
  two->ReportFinished();
  EXPECT_EQ(one->WaitForEnd().state, RunState::kFinished);
  EXPECT_EQ(two->WaitForEnd().state, RunState::kFinished);
}

TEST_F(ControlTest, AFailureReachesEverybodyWithItsAuthor) {
  Start(milliseconds(5000));
  std::atomic<int> heard = 0;
  const auto one = Join(0, &heard), two = Join(1);
  two->ReportFailure("no \"space\" left\xff", 4);
  const Verdict verdict = one->WaitForEnd();
  EXPECT_EQ(verdict.state, RunState::kFailed);
  EXPECT_THAT(verdict.text, HasSubstr("rank 1: no \"space\" left"));
  EXPECT_EQ(verdict.exit_code, 4);
  EXPECT_EQ(heard, static_cast<int>(RunState::kFailed));
}

TEST_F(ControlTest, AskingToStopReachesTheOthers) {
  Start(milliseconds(5000));
  std::atomic<int> heard = 0;
  const auto one = Join(0, &heard), two = Join(1);
  two->AskToStop();
  const Deadline limit = DeadlineIn(milliseconds(10000));
  while (heard == 0 && SteadyClock::now() < limit) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(heard, static_cast<int>(RunState::kStopping));
}

TEST_F(ControlTest, WhoNeverComesIsFoundOut) {
  Start(milliseconds(300));
  const auto one = Join(0);
  const Verdict verdict = one->WaitForEnd();
  EXPECT_EQ(verdict.state, RunState::kFailed);
  EXPECT_FALSE(verdict.own);
  EXPECT_THAT(verdict.text, AllOf(HasSubstr("rank 1"), HasSubstr("not heard from")));
}

TEST_F(ControlTest, ACoordinatorThatIsGoneIsFoundOut) {
  Start(milliseconds(300));
  const auto one = Join(0);
  const auto two = Join(1);
  coordinator_.reset();
  for (ControlLink* link : {one.get(), two.get()}) {
    const Verdict verdict = link->WaitForEnd();
    EXPECT_TRUE(verdict.own);
    EXPECT_THAT(verdict.text, HasSubstr("no word from the coordinator"));
  }
}

// Who is slow to leave, longer than the coordinator waits for it, has not failed.
TEST_F(ControlTest, ACoordinatorThatLeavesAfterTheEndIsNoFailure) {
  Start(milliseconds(300));
  std::atomic<int> heard = 0;
  const auto one = Join(0), two = Join(1, &heard);
  one->ReportFinished();
  two->ReportFinished();
  EXPECT_EQ(two->WaitForEnd().state, RunState::kFinished);
  coordinator_.reset();
  std::this_thread::sleep_for(milliseconds(600));
  EXPECT_EQ(two->WaitForEnd().state, RunState::kFinished);
  EXPECT_EQ(heard, static_cast<int>(RunState::kFinished));
}

// A process of a former run, and noise, are not heard.
TEST_F(ControlTest, AnotherRunIsNotHeard) {
  Start(milliseconds(60000));
  const auto one = Join(0), two = Join(1);
  auto stale = Join(1, nullptr, kRun - 1);
  stale->ReportFailure("of a former run", 1);
  auto noise = DealerSocket::Connect(&context_, coordinator_->endpoint(), {});
  ASSERT_TRUE(noise.ok());
  for (const char* text : {"", "{", "{}", "[]", "{\"run\":77}", "{\"run\":77,\"rank\":99}"}) {
    Frame frame = context_.NewFrame(std::strlen(text));
    std::memcpy(frame.bytes().data(), text, std::strlen(text));
    (*noise)->Send(std::move(frame));
  }
  one->ReportFinished();
  two->ReportFinished();
  EXPECT_EQ(one->WaitForEnd().state, RunState::kFinished);
}

// Text with one to four bytes changed.
std::string Mutated(std::string text, Random* random) {
  for (uint64_t change = random->Below(4); change < 4; ++change) {
    text[random->Below(text.size())] = static_cast<char>(random->Below(256));
  }
  return text;
}

// Row malformed_frames of docs/reliability.md: the coordinator's socket and that of a process.
TEST_F(ControlTest, TenThousandMutatedMessagesEachWayAreNotHeard) {
  constexpr uint64_t kSeed = 6;
  constexpr int kMessages = 10'000;
  Random random(kSeed);
  const auto frame_of = [this](const std::string& text) {
    Frame frame = context_.NewFrame(text.size());
    std::ranges::copy(std::as_bytes(std::span(text)), frame.bytes().begin());
    return frame;
  };
  Start(milliseconds(60000));
  const auto one = Join(0), two = Join(1);
  auto attacker = DealerSocket::Connect(&context_, coordinator_->endpoint(), {});
  ASSERT_TRUE(attacker.ok());
  const std::string request =
      R"({"run":77,"rank":1,"stop":false,"finished":false,"left":false,"error":"","code":1})";
  Frame ignored;
  for (int i = 0; i < kMessages; ++i) {
    Frame frame = frame_of(Mutated(request, &random));
    const Deadline limit = DeadlineIn(milliseconds(60000));
    while (!(*attacker)->Send(frame.Share())) {
      while ((*attacker)->Receive(&ignored)) {
      }
      ASSERT_LT(SteadyClock::now(), limit);
    }
  }
  one->ReportFinished();
  two->ReportFinished();
  EXPECT_EQ(one->WaitForEnd().state, RunState::kFinished);

  // A coordinator that stammers. Damage that happens to say that the run is over is not damage.
  auto router = RouterSocket::Bind(&context_, "tcp://127.0.0.1:0", {});
  ASSERT_TRUE(router.ok());
  const auto link = ControlLink::Start(
      &context_,
      {.endpoint = (*router)->endpoint(), .run = kRun, .rank = 1, .lease = milliseconds(60000)},
      [](const Verdict&) {});
  ASSERT_TRUE(link.ok());
  const std::string reply = R"({"run":77,"state":0,"text":"","code":1,"left":false})";
  const Deadline limit = DeadlineIn(milliseconds(60000));
  Frame peer;
  while (!(*router)->Receive(&peer, &ignored)) ASSERT_LT(SteadyClock::now(), limit);
  for (int sent = 0; sent < kMessages;) {
    const std::string bad = Mutated(reply, &random);
    if (bad.find("\"state\":0") == bad.npos) continue;
    sent += (*router)->Send(peer.Share(), frame_of(bad));
    ASSERT_LT(SteadyClock::now(), limit);
  }
  while (!(*router)->Send(peer.Share(),
                          frame_of(R"({"run":77,"state":2,"text":"","code":0,"left":true})"))) {
    ASSERT_LT(SteadyClock::now(), limit);
  }
  EXPECT_EQ((*link)->WaitForEnd().state, RunState::kFinished);
  PrintFigure(
      "malformed_frames",
      absl::StrCat("control: ", kMessages, " mutated messages to the coordinator and ", kMessages,
                   " from it, both heard the genuine ones after them (seed ", kSeed, ")"));
}

}  // namespace
}  // namespace savior
