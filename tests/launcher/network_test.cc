#include "launcher/network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "launcher/exit_code.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const NetworkInterface kLo{.name = "lo", .addresses = {"127.0.0.1"}, .up = true, .loopback = true};
const NetworkInterface kEth{
    .name = "eth0", .addresses = {"10.0.0.5", "10.0.1.5"}, .up = true, .loopback = false};
const NetworkInterface kIb{.name = "ib0", .addresses = {"10.9.0.5"}, .up = true, .loopback = false};
const NetworkInterface kDown{
    .name = "eth1", .addresses = {"10.2.0.5"}, .up = false, .loopback = false};
const NetworkInterface kBare{.name = "eth2", .addresses = {}, .up = true, .loopback = false};

absl::StatusOr<std::string> Pick(const std::string& interface,
                                 const std::vector<NetworkInterface>& all,
                                 const std::vector<std::string>& named = {}) {
  return PickAddress(interface, all, "node2", named);
}

TEST(Network, TakesTheFirstAddressOfTheInterfaceNamed) {
  EXPECT_EQ(Pick("ib0", {kLo, kEth, kIb}).value(), "10.9.0.5");
  EXPECT_EQ(Pick("eth0", {kLo, kEth, kIb}).value(), "10.0.0.5");
  EXPECT_EQ(Pick("lo", {kLo, kEth}).value(), "127.0.0.1");
}

TEST(Network, WithoutANameTakesThatOfTheHostsNameElseTheFirstThatIsUp) {
  EXPECT_EQ(Pick("", {kLo, kEth, kIb}, {"127.0.0.1", "10.9.0.5"}).value(), "10.9.0.5");
  EXPECT_EQ(Pick("", {kLo, kEth, kIb}, {"10.0.1.5"}).value(), "10.0.1.5");
  EXPECT_EQ(Pick("", {kLo, kDown, kBare, kEth, kIb}, {"10.2.0.5"}).value(), "10.0.0.5");
}

TEST(Network, OneThatDoesNotExistCannotBeMendedByARestart) {
  const absl::Status status = Pick("eth9", {kLo, kEth, kDown}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("cluster.interface = \"eth9\""), HasSubstr("node2 has no such"),
                    HasSubstr("eth0 (10.0.0.5), eth1 (is down)")));
  EXPECT_EQ(ExitCodeOf(status, /*trained=*/false), kExitBadInput);
  EXPECT_EQ(ExitCodeOf(Pick("", {kLo}).status(), false), kExitBadInput);
}

TEST(Network, OneThatIsDownOrHasNoAddressMayComeBack) {
  for (const auto& [name, why] : {std::pair("eth1", "is down"), {"eth2", "has no IPv4 address"}}) {
    const absl::Status status = Pick(name, {kLo, kEth, kDown, kBare}).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr(std::string("cluster.interface = \"") + name),
                                        HasSubstr(std::string("that of node2 ") + why)));
    EXPECT_EQ(ExitCodeOf(status, /*trained=*/false), kExitFailed);
  }
  const absl::Status status = Pick("", {kLo, kDown, kBare}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("eth1 (is down), eth2 (has no IPv4 address)"));
}

TEST(Network, ReadsWhatThisMachineHas) {
  EXPECT_EQ(AddressOf("lo").value(), "127.0.0.1");
  EXPECT_TRUE(absl::IsInvalidArgument(AddressOf("eth99").status()));
}

// In a network of its own, a process finds loopback only, and that is down.
TEST(Network, SeesThatAnInterfaceIsDown) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(77);
    const absl::Status status = AddressOf("lo").status();
    const bool right = absl::IsUnavailable(status) &&
                       std::string(status.message()).find("is down") != std::string::npos;
    ::_exit(right ? 0 : 1);
  }
  int end = 0;
  ASSERT_EQ(::waitpid(child, &end, 0), child);
  ASSERT_TRUE(WIFEXITED(end));
  if (WEXITSTATUS(end) == 77) GTEST_SKIP() << "NOT TESTED: no network namespace (needs root)";
  EXPECT_EQ(WEXITSTATUS(end), 0);
}

}  // namespace
}  // namespace savior
