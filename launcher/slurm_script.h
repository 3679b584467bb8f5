// `savior slurm`: writes the batch script with which a run trains under Slurm.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace savior {

struct SlurmOptions {
  std::string config_path = {};
  std::vector<std::string> overrides = {};
  int64_t nodes = 0;
  int64_t gpus_per_node = 0;   // 0: none asked for
  int64_t tasks_per_node = 0;  // 0: as cluster.* says (DefaultRanks)
  std::string time = {};       // [days-]HH:MM:SS; empty: the partition's
  std::string partition = {};  // empty: the cluster's default
  std::string seeds = {};      // "1,2,3": an array of jobs, one per seed; empty: one job
  std::string out = {};        // file to write; empty: stdout
};

// The script, for sbatch. It starts the ranks on the nodes that are left, again after a failure,
// from the last commit; shortly before the time limit it has them commit and puts itself back into
// the queue. The run folder must lie where all nodes see it. `program`: absolute path of savior;
// `folder`: where the run's relative paths begin. kInvalidArgument names the option that is wrong.
[[nodiscard]] absl::StatusOr<std::string> SlurmScript(const SlurmOptions& options,
                                                      const Config& config,
                                                      const std::string& program,
                                                      const std::string& folder);

// `word` as bash reads it back: quoted where it needs to be.
std::string Quoted(const std::string& word);

// Checks the configuration, writes the script to options.out or stdout.
[[nodiscard]] absl::Status WriteSlurmScript(const SlurmOptions& options);

}  // namespace savior
