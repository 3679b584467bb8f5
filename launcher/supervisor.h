// `savior launch`: runs `savior train` on many processes and machines until it has finished.
//
// Starts mpirun, or srun in an allocation of Slurm; shows every rank's output line by line; passes
// a request to stop on; after a failure starts again from the last commit, on the machines that are
// still there. Everything that it says and shows is also in <run.dir>/launch.log.
//
//   SIGTERM, SIGINT, SIGHUP, SIGUSR1   ranks get SIGUSR1: they stop after the step and commit
//   a second SIGTERM or SIGINT         everything is killed
//   SIGKILL                            mpirun gets SIGTERM from the system and ends the ranks
#pragma once

#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "launcher/hosts.h"
#include "launcher/restart_policy.h"

namespace savior {

struct LaunchOptions {
  std::string config_path = {};
  std::vector<std::string> overrides = {};
  std::string hosts = {};  // "a:2,b"; empty: this machine, or the allocation
  int64_t ranks = 0;  // without hosts; in an allocation: per node. 0: as the configuration says
};

struct LaunchEnd {
  Outcome outcome = Outcome::kGaveUp;
  int64_t restarts = 0;
};

// Ranks of one machine, or of all, when nobody says: what cluster.servers and cluster.workers, or
// the same per node, add up to, at least 1.
int64_t DefaultRanks(const Config::Cluster& cluster, int64_t machines);

// Runs until the run has finished, was stopped or cannot go on. From the call on the signals above
// are this function's. kInvalidArgument, kNotFound: options or configuration; kFailedPrecondition:
// another launcher has the run, or mpirun is not installed. Prints to stdout and stderr. Call from
// the thread that lives longest, while there is no other.
[[nodiscard]] absl::StatusOr<LaunchEnd> Launch(const LaunchOptions& options);

}  // namespace savior
