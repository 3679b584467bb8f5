// Programs that are started: output, ends, signals, time-outs.

#include "launcher/child.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>

#include "common/clock.h"

namespace savior {
namespace {

using ::testing::HasSubstr;
using Command = std::vector<std::string>;

Command Shell(const std::string& script) { return {"sh", "-c", script}; }

int EndOf(Child& child) {
  while (!child.Ended()) ::poll(nullptr, 0, 5);
  return *child.Ended();
}

TEST(Child, OutputAndEndsOfManyAtOnce) {
  const std::vector<Command> commands = {Shell("echo out; echo err >&2; exit 3"),
                                         Shell("kill -9 $$"),
                                         {"no-such-program"},
                                         Shell("cat")};  // whose input is empty
  const std::vector<Finished> finished = RunAll(commands, std::chrono::seconds(30));
  EXPECT_EQ(finished[0].code, 3);
  EXPECT_EQ(finished[0].out, "out\n");
  EXPECT_EQ(finished[0].err, "err\n");
  EXPECT_EQ(finished[1].code, 137);
  EXPECT_FALSE(finished[2].code);
  EXPECT_THAT(finished[2].err, HasSubstr("no-such-program: no such program on the PATH"));
  EXPECT_EQ(finished[3].code, 0);
}

TEST(Child, WhatIsTooSlowIsKilled) {
  const std::vector<Command> commands = {Shell("sleep 60"), Shell("exit 0")};
  const auto start = SteadyClock::now();
  const std::vector<Finished> finished = RunAll(commands, std::chrono::milliseconds(300));
  EXPECT_LT(SteadyClock::now() - start, std::chrono::seconds(20));
  EXPECT_FALSE(finished[0].code);
  EXPECT_EQ(finished[1].code, 0);
}

TEST(Child, GetsSignalsAndHasNoneBlocked) {
  sigset_t blocked, former;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &blocked, &former);
  auto child = Child::Start(Shell("trap 'exit 7' USR1; echo; while :; do sleep 0.01; done"));
  ::sigprocmask(SIG_SETMASK, &former, nullptr);
  ASSERT_TRUE(child.ok()) << child.status();
  for (std::string ready; ready.empty(); ::poll(nullptr, 0, 5)) {
    ReadAvailable((*child)->out(), ready);
  }
  (*child)->Signal(SIGUSR1);
  EXPECT_EQ(EndOf(**child), 7);
  (*child)->Signal(SIGUSR1);  // to nobody
}

TEST(Child, IsKilledWithAllItStarted) {
  auto child = Child::Start(Shell("sleep 60 & sleep 60"));
  ASSERT_TRUE(child.ok()) << child.status();
  (*child)->Kill();
  EXPECT_EQ(EndOf(**child), 137);
  // The pipe ends when the last one that holds it does.
  std::string bytes;
  const auto deadline = SteadyClock::now() + std::chrono::seconds(20);
  while (ReadAvailable((*child)->out(), bytes) && SteadyClock::now() < deadline) {
    ::poll(nullptr, 0, 5);
  }
  EXPECT_FALSE(ReadAvailable((*child)->out(), bytes));
}

TEST(Child, WhatItLeftBehindIsKilledToo) {
  auto child = Child::Start(Shell("sleep 60 & exit 5"));
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(EndOf(**child), 5);
  std::string bytes;
  EXPECT_TRUE(ReadAvailable((*child)->out(), bytes)) << "sleep holds it";
  (*child)->Kill();
  const auto deadline = SteadyClock::now() + std::chrono::seconds(20);
  while (ReadAvailable((*child)->out(), bytes) && SteadyClock::now() < deadline) {
    ::poll(nullptr, 0, 5);
  }
  EXPECT_FALSE(ReadAvailable((*child)->out(), bytes));
}

}  // namespace
}  // namespace savior
