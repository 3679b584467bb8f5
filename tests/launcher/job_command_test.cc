// Where ranks go and what is typed to start them.

#include "launcher/job_command.h"

#include <absl/strings/str_join.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "launcher/supervisor.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string Text(const std::vector<std::string>& argv) { return absl::StrJoin(argv, " "); }

TEST(Hosts, AreParsedWithAndWithoutNumbers) {
  const auto hosts = ParseHosts("node1:2, node2,10.0.0.3:4096", 3);
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  EXPECT_THAT(*hosts, ElementsAre(Host{"node1", 2}, Host{"node2", 3}, Host{"10.0.0.3", 4096}));
  EXPECT_EQ(ToString(*hosts), "node1:2,node2:3,10.0.0.3:4096");
  EXPECT_EQ(RanksOn(*hosts), 4101);
  EXPECT_EQ(HostOfRank(*hosts, 1), "node1");
  EXPECT_EQ(HostOfRank(*hosts, 2), "node2");
  EXPECT_EQ(HostOfRank(*hosts, 5), "10.0.0.3");
  EXPECT_EQ(HostOfRank({}, 5), "");
}

TEST(Hosts, WhatIsNoneIsNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a,,b", "\"\" is not host"}, {"a:0", "[1, 4096]"},     {"a:x", "[1, 4096]"},
      {"a:4097", "[1, 4096]"},      {"a:1:2", "is not host"}, {"-oProxyCommand=x", "is not host"},
      {"a b", "is not host"},       {"a;rm", "is not host"},  {"a:1,b,a", "a is there twice; a:2"}};
  for (const auto& [text, message] : cases) {
    const auto hosts = ParseHosts(text, 1);
    EXPECT_TRUE(absl::IsInvalidArgument(hosts.status())) << text;
    EXPECT_THAT(std::string(hosts.status().message()), HasSubstr(message)) << text;
  }
}

TEST(Hosts, NodeStatesOfSlurm) {
  const Survivors s = ParseNodeStates(
      "node1 mix\nnode2 alloc*\nnode3 down*\nnode4 idle\nnode1 mix\nnode5 alloc\nnode6 drain\n", 2);
  EXPECT_THAT(s.alive, ElementsAre(Host{"node1", 2}, Host{"node4", 2}, Host{"node5", 2}));
  EXPECT_THAT(s.dead, ElementsAre("node2: Slurm says alloc*", "node3: Slurm says down*",
                                  "node6: Slurm says drain"));
}

// With an "ssh" that knows who is alive, and is given the arguments that mpirun's would get.
TEST(Hosts, AreProbedAllAtOnce) {
  const TempFolder folder;
  const std::string ssh = (folder / "ssh").string();
  std::ofstream(ssh) << "#!/bin/sh\n"
                        "[ \"$1 $2\" = '-F config' ] || exit 3\n"
                        "case $* in\n"
                        "  *' dead true') echo refused >&2; exit 255 ;;\n"
                        "  *' mute true') exec sleep 30 ;;\n"
                        "  *' other cat /proc/net/dev') echo '    lo: 1 2'; echo '  ib0: 3 4' ;;\n"
                        "  *' wired cat /proc/net/dev') echo '    lo: 1 2'; echo 'eth77: 3 4' ;;\n"
                        "esac\n";
  std::filesystem::permissions(ssh, std::filesystem::perms::owner_all);
  ::setenv("OMPI_MCA_plm_rsh_agent", (ssh + " : rsh").c_str(), 1);
  ::setenv("OMPI_MCA_plm_rsh_args", "-F  config", 1);
  const auto start = SteadyClock::now();
  const Survivors s = ProbeHosts({{"localhost", 1}, {"dead", 1}, {"alive", 2}, {"mute", 1}}, "",
                                 std::chrono::milliseconds(1500));
  const Survivors with_interface = ProbeHosts({{"localhost", 1}, {"wired", 1}, {"other", 1}},
                                              "eth77", std::chrono::milliseconds(1500));
  ::unsetenv("OMPI_MCA_plm_rsh_agent");
  ::unsetenv("OMPI_MCA_plm_rsh_args");
  EXPECT_LT(SteadyClock::now() - start, std::chrono::seconds(10));
  EXPECT_THAT(s.alive, ElementsAre(Host{"localhost", 1}, Host{"alive", 2}));
  EXPECT_THAT(s.dead, ElementsAre("dead: ssh: refused", "mute: ssh gets no answer from it"));
  EXPECT_THAT(with_interface.alive, ElementsAre(Host{"wired", 1}));
  EXPECT_THAT(with_interface.dead,
              ElementsAre(HasSubstr("localhost: it has no network interface eth77"),
                          "other: it has no network interface eth77 (cluster.interface), but lo, "
                          "ib0"));
}

TEST(DefaultRanks, FollowTheConfiguration) {
  Config::Cluster cluster;
  EXPECT_EQ(DefaultRanks(cluster, 3), 1);
  cluster.servers = 3;
  cluster.workers = 4;
  EXPECT_EQ(DefaultRanks(cluster, 1), 7);
  EXPECT_EQ(DefaultRanks(cluster, 3), 3);
  cluster.servers_per_node = 1;
  cluster.workers_per_node = 1;
  EXPECT_EQ(DefaultRanks(cluster, 3), 2);
}

TEST(JobCommand, Mpirun) {
  Job job{.ranks = 2, .folder = "/f", .program = {"/bin/savior", "train", "a b.toml"}};
  const std::vector<std::string> here = MpirunCommand(job);
  EXPECT_EQ(here.front(), "mpirun");
  EXPECT_EQ(here.back(), "a b.toml");
  EXPECT_THAT(Text(here),
              AllOf(HasSubstr("-n 2"), HasSubstr("--bind-to none"), HasSubstr("--wdir /f"),
                    HasSubstr("--mca pml ob1"), Not(HasSubstr("--host")),
                    Not(HasSubstr("if_include")), Not(HasSubstr("root"))));
  job.hosts = {{"a", 2}, {"b", 1}};
  job.ranks = 3;
  job.interface = "eth1";
  job.root = true;
  job.lease_s = 20;
  ::setenv("SAVIOR_CACHE", "/x", 1);
  EXPECT_THAT(
      Text(MpirunCommand(job)),
      AllOf(HasSubstr("--allow-run-as-root --host a:2,b:1 -n 3"),
            HasSubstr("--mca oob_tcp_if_include eth1"), HasSubstr("--mca btl_tcp_if_include eth1"),
            HasSubstr("oob_tcp_keepalive_time 10"), HasSubstr("-x SAVIOR_CACHE")));
}

TEST(JobCommand, Srun) {
  const Job job{.hosts = {{"a", 2}, {"c", 2}},
                .ranks = 4,
                .interface = "eth1",
                .folder = "/f",
                .program = {"savior", "train"}};
  const std::string text = Text(SrunCommand(job));
  EXPECT_THAT(text, StartsWith("env OMPI_MCA_pml=ob1"));
  EXPECT_THAT(text, AllOf(HasSubstr("OMPI_MCA_btl_tcp_if_include=eth1"),
                          HasSubstr(" srun --mpi=pmix --kill-on-bad-exit=1 --overlap"),
                          HasSubstr("--nodes=2 --ntasks=4 --ntasks-per-node=2 --nodelist=a,c "
                                    "savior train")));
}

}  // namespace
}  // namespace savior
