// The command lines of mpirun and srun for an attempt of a run.
#pragma once

#include <string>
#include <vector>

#include "launcher/hosts.h"

namespace savior {

struct Job {
  std::vector<Host> hosts = {};           // filled with ranks in this order; empty: this machine
  int64_t ranks = 1;                      // at most RanksOn(hosts), if there are hosts
  std::string interface = {};             // that all traffic takes; empty: what Open MPI finds
  double lease_s = 30;                    // silence after which a node counts as dead
  std::string folder = {};                // where ranks are started
  bool root = false;                      // this is root, which mpirun must be told
  std::vector<std::string> program = {};  // of every rank, with arguments
};

// Ranks are bound to no core, yield while they wait, and fill one host after the other; data goes
// by TCP or shared memory alone, whatever else the machine has.
std::vector<std::string> MpirunCommand(const Job& job);

// In an allocation; every host has the same number of ranks.
std::vector<std::string> SrunCommand(const Job& job);

}  // namespace savior
