#include "launcher/launch_command.h"

#include <CLI/CLI.hpp>
#include <iostream>

#include "launcher/exit_code.h"

namespace savior {

void AddLaunch(CLI::App& app, LaunchOptions& options) {
  CLI::App* launch = app.add_subcommand(
      "launch", "Trains on many processes and machines, restarts what fails from the last commit");
  launch->footer(
      "Examples:\n"
      "  savior launch configs/complete_journey.toml --np 3\n"
      "  savior launch configs/complete_journey.toml --hosts node1:2,node2:2,node3:2\n"
      "  salloc -N 3 --ntasks-per-node 2 savior launch configs/complete_journey.toml --np 2\n"
      "The same command again goes on where it was stopped. Guide: docs/cluster.md");
  launch->add_option("config", options.config_path, "TOML file")->required();
  launch->add_option("overrides", options.overrides, "key=value ..., stronger than the file");
  auto* hosts = launch->add_option(
      "--hosts", options.hosts,
      "host[:ranks],... reached by ssh without a password; without a number as many ranks as "
      "cluster.* says, or 1");
  launch
      ->add_option("--np", options.ranks,
                   "Ranks on this machine; in an allocation of Slurm, on every node")
      ->check(CLI::Range(1, 4096))
      ->excludes(hosts);
}

void AddSlurm(CLI::App& app, SlurmOptions& options) {
  CLI::App* slurm = app.add_subcommand("slurm", "Writes the batch script that trains under Slurm");
  slurm->footer(
      "Examples:\n"
      "  savior slurm configs/complete_journey.toml --nodes 3 --time 04:00:00 --out train.sbatch\n"
      "  savior slurm configs/complete_journey.toml --nodes 2 --seeds 1,2,3 --out seeds.sbatch\n"
      "then: sbatch train.sbatch. Guide: docs/cluster.md");
  slurm->add_option("config", options.config_path, "TOML file")->required();
  slurm->add_option("overrides", options.overrides, "key=value ..., stronger than the file");
  slurm->add_option("--nodes", options.nodes, "Nodes")->required();
  slurm->add_option("--gpus-per-node", options.gpus_per_node, "GPUs of every node");
  slurm->add_option("--tasks-per-node", options.tasks_per_node,
                    "Ranks on every node; without it as many as cluster.* says, or 1");
  slurm->add_option("--time", options.time, "Time limit, [days-]HH:MM:SS");
  slurm->add_option("--partition", options.partition, "Partition");
  slurm->add_option("--seeds", options.seeds, "1,2,3: an array of jobs, one per seed");
  slurm->add_option("--out", options.out, "File to write instead of stdout");
}

int RunLaunch(const LaunchOptions& options) {
  const absl::StatusOr<LaunchEnd> end = Launch(options);
  if (!end.ok()) {
    std::cerr << "savior: " << std::string(end.status().message()) << "\n";
    return ExitCodeOf(end.status(), /*trained=*/false);
  }
  switch (end->outcome) {
    case Outcome::kFinished:
    case Outcome::kStopped:
      return kExitOk;
    case Outcome::kBadInput:
      return kExitBadInput;
    case Outcome::kKilled:
      return kExitStopped;
    case Outcome::kStopFailed:
    case Outcome::kGaveUp:
      break;
  }
  return kExitFailed;
}

}  // namespace savior
