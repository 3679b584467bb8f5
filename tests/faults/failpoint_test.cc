// Failpoints themselves: the list, the code and the command line say the same.
#include "common/failpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <regex>
#include <string>

#include "common/files.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/process.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

// How often each name stands in the product's code.
std::map<std::string, int> PointsInTheCode() {
  std::map<std::string, int> points;
  const std::regex point(R"re(SAVIOR_FAILPOINT\("([^"]*)"\))re");
  for (const char* room : {"common", "ps", "worker", "serving", "launcher"}) {
    for (const auto& entry : fs::recursive_directory_iterator(fs::path(SAVIOR_SOURCE) / room)) {
      if (entry.path().extension() != ".cc" && entry.path().extension() != ".h") continue;
      const std::string text = ReadFile(entry.path()).value();
      for (std::sregex_iterator it(text.begin(), text.end(), point), end; it != end; ++it) {
        ++points[(*it)[1]];
      }
    }
  }
  return points;
}

TEST(Failpoints, TheListAndTheCodeHaveTheSame) {
  std::map<std::string, int> in_the_code = PointsInTheCode();
  EXPECT_GT(in_the_code.size(), 40u);
  for (const FailpointInfo& point : kFailpoints) {
    EXPECT_FALSE(point.what.empty()) << point.name;
    EXPECT_EQ(in_the_code[std::string(point.name)], 1) << point.name;
    in_the_code.erase(std::string(point.name));
  }
  for (const auto& [name, times] : in_the_code) {
    ADD_FAILURE() << name << " is in the code and not in common/failpoint.h";
  }
}

TEST(Failpoints, TheProgramListsThem) {
  const TempFolder folder;
  const Ended listed = ChildProcess({SAVIOR_PROGRAM, "--list-failpoints"}, folder.path()).Wait();
  EXPECT_EQ(listed.code, 0) << listed.err;
  for (const FailpointInfo& point : kFailpoints) {
    EXPECT_THAT(listed.out, HasSubstr(fmt::format("{:<26} {}\n", point.name, point.what)));
  }
}

TEST(Failpoints, TheProgramRefusesOnesThatAreNotThere) {
  const TempFolder folder;
  const Ended refused =
      ChildProcess({"/usr/bin/env", std::string(kFailpointVariable) + "=commit.nowhere=exit",
                    SAVIOR_PROGRAM, "--list-failpoints"},
                   folder.path())
          .Wait();
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, AllOf(HasSubstr(kFailpointVariable), HasSubstr("commit.nowhere")));
}

absl::Status Come() {
  SAVIOR_FAILPOINT("commit.before_begin");
  return absl::OkStatus();
}

TEST(Failpoints, FailAtTheHitThatTheyAreToldOf) {
  ASSERT_TRUE(ArmFailpoints("commit.before_begin=error@2,file.before_write=error").ok());
  EXPECT_TRUE(Come().ok());
  const absl::Status second = Come();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  EXPECT_THAT(std::string(second.message()), HasSubstr("commit.before_begin"));
  EXPECT_TRUE(Come().ok());
  const TempFolder folder;
  EXPECT_FALSE(WriteFileAtomically(folder / "file", "x").ok());
  EXPECT_TRUE(WriteFileAtomically(folder / "file", "x").ok());
  ASSERT_TRUE(ArmFailpoints("").ok());
  EXPECT_TRUE(Come().ok());
}

TEST(Failpoints, ExitEndsTheProcessAtOnce) {
  ASSERT_TRUE(ArmFailpoints("commit.before_begin=exit").ok());
  EXPECT_EXIT(Come().IgnoreError(), ::testing::ExitedWithCode(kFailpointExit),
              "commit.before_begin");
  ASSERT_TRUE(ArmFailpoints("").ok());
}

TEST(Failpoints, MalformedTextIsRefusedAndNamed) {
  for (const char* text :
       {"x", "commit.before_begin", "commit.before_begin=sleep", "commit.before_begin=exit@0",
        "commit.before_begin=exit@x", "commit.before_begin=exit@", "commit.before_begin=,"}) {
    const absl::Status status = ArmFailpoints(text);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(kFailpointVariable));
  }
  ASSERT_TRUE(ArmFailpoints("").ok());
}

}  // namespace
}  // namespace savior
