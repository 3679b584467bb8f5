// Programs that are started: output, ends, signals, time-outs.

#include "launcher/child.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "common/clock.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
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

// Here a thread of this process: what the system does at its end is the same.
TEST(Child, EndsWithTheThreadThatStartedItByTheSignalThatItWasToGet) {
  for (const auto& [death_signal, code] : {std::pair(SIGTERM, 7), std::pair(SIGKILL, 137)}) {
    absl::StatusOr<std::unique_ptr<Child>> child;
    std::thread([&child, signal = death_signal] {
      child = Child::Start(Shell("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done"),
                           {.death_signal = signal});
      ASSERT_TRUE(child.ok()) << child.status();
      for (std::string ready; ready.empty(); ::poll(nullptr, 0, 5)) {
        ReadAvailable((*child)->out(), ready);
      }
    }).join();
    ASSERT_TRUE(child.ok());
    EXPECT_EQ(EndOf(**child), code);
  }
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

TEST(Child, GetsAnotherEnvironmentAndPriorityAndNoneOfOurFiles) {
  const TempFolder folder;
  ::setenv("SAVIOR_CHILD_A", "1", 1);
  ::setenv("SAVIOR_CHILD_B", "2", 1);
  ::setenv("SAVIOR_OTHER", "3", 1);
  // Open, and without O_CLOEXEC.
  const int open = ::open((folder / "held").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_GE(open, 0);
  auto child =
      Child::Start(Shell("echo $SAVIOR_CHILD_A,$SAVIOR_CHILD_B,$SAVIOR_OTHER,$SAVIOR_NEW; nice; "
                         "ls -l /proc/self/fd"),
                   {.nice = 3,
                    .unset = {"SAVIOR_CHILD_"},
                    .set = {{"SAVIOR_OTHER", "x y"}, {"SAVIOR_NEW", ""}}});
  ::close(open);
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(EndOf(**child), 0);
  std::string out;
  ReadAvailable((*child)->out(), out);
  const int nice = ::getpriority(PRIO_PROCESS, 0) + 3;
  EXPECT_THAT(out, StartsWith(",,x y,\n" + std::to_string(std::min(nice, 19)) + "\n"));
  EXPECT_THAT(out, Not(HasSubstr("held")));
}

}  // namespace
}  // namespace savior
