// The machines of a run: where its ranks go, and which of them are alive.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

struct Host {
  std::string name;
  int64_t ranks = 1;
  bool operator==(const Host&) const = default;
};

// "node1:2,node2:2,node3" -> three hosts; where no number is given, `ranks`. kInvalidArgument: what
// is not a host name (nor an option of ssh in disguise), a number out of [1, 4096], a host twice.
[[nodiscard]] absl::StatusOr<std::vector<Host>> ParseHosts(const std::string& text, int64_t ranks);

// "node1:2,node2:2,node3:1", as mpirun --host takes it.
std::string ToString(const std::vector<Host>& hosts);

// Of the host on which rank `rank` runs when ranks fill the hosts in order; "" without hosts.
std::string HostOfRank(const std::vector<Host>& hosts, int64_t rank);

int64_t RanksOn(const std::vector<Host>& hosts);

// `name` is localhost or this machine's host name: nobody needs ssh to reach it.
bool IsThisMachine(const std::string& name);

// What a search for the living found: `alive` in the order asked for, and a line of reasons per
// host that did not answer or cannot be used.
struct Survivors {
  std::vector<Host> alive;
  std::vector<std::string> dead;
};

// Asks every host at once, by ssh as mpirun would use it (OMPI_MCA_plm_rsh_agent,
// OMPI_MCA_plm_rsh_args), without asking for passwords, whether it is there and has the network
// interface `interface` (empty: any will do), without which mpirun would not come up, nor say why.
// Blocks up to `timeout`. Single-threaded: nobody else may wait for this process's children
// meanwhile.
Survivors ProbeHosts(const std::vector<Host>& hosts, const std::string& interface,
                     std::chrono::milliseconds timeout);

// The nodes of this Slurm allocation (SLURM_JOB_NODELIST) that Slurm believes to be alive, with
// `ranks` each. kUnavailable: Slurm does not answer within `timeout`.
[[nodiscard]] absl::StatusOr<Survivors> NodesOfAllocation(int64_t ranks,
                                                          std::chrono::milliseconds timeout);

// Of `sinfo -h -N -o "%N %t"`: one host per node, alive if it is allocated, mixed, idle or
// completing, and answers ("alloc*" does not).
Survivors ParseNodeStates(const std::string& sinfo, int64_t ranks);

}  // namespace savior
