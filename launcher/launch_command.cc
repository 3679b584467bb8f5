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
      "  salloc -N 3 savior launch configs/complete_journey.toml --np 2\n"
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
