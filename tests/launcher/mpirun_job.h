// Command lines of real mpirun jobs: `savior train` as many processes on this machine, as people on
// a crowded one need them.
#pragma once

#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "common/config.h"

namespace savior {

// mpirun's own arguments; ranks are to be added.
inline std::vector<std::string> MpirunCommand() {
  std::vector<std::string> command = {"/usr/bin/env",
                                      "OMPI_MCA_mpi_yield_when_idle=1",
                                      "OMP_NUM_THREADS=1",
                                      "mpirun",
                                      "--oversubscribe",
                                      "--bind-to",
                                      "none"};
  if (::geteuid() == 0) command.emplace_back("--allow-run-as-root");
  return command;
}

// Writes it beside its run folder, whose name, then `suffix`, it has; returns the path.
inline std::string WriteConfig(const Config& config, const std::string& suffix = "") {
  const std::string path = config.run.dir + suffix + ".toml";
  std::ofstream(path) << ToToml(config);
  return path;
}

// A part of a job: `ranks` processes of `savior train` with these arguments.
inline void AddRanks(int ranks, const std::vector<std::string>& arguments,
                     std::vector<std::string>* command) {
  command->insert(command->end(), {"-n", std::to_string(ranks), SAVIOR_PROGRAM, "train"});
  command->insert(command->end(), arguments.begin(), arguments.end());
}

// A whole one.
inline std::vector<std::string> MpirunJob(int ranks, const Config& config,
                                          const std::vector<std::string>& more = {}) {
  std::vector<std::string> command = MpirunCommand(), arguments = {WriteConfig(config)};
  arguments.insert(arguments.end(), more.begin(), more.end());
  AddRanks(ranks, arguments, &command);
  return command;
}

}  // namespace savior
