#include "launcher/job_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

extern char** environ;

namespace savior {
namespace {

int64_t AtLeastOne(double seconds) { return std::max<int64_t>(1, static_cast<int64_t>(seconds)); }

using Setting = std::pair<std::string, std::string>;

// Settings of Open MPI itself; under srun they travel in the environment.
std::vector<Setting> OpenMpiSettings(const Job& job) {
  std::vector<Setting> settings = {// No UCX, no libfabric: they choose interfaces by themselves.
                                   {"pml", "ob1"},
                                   {"btl", "self,vader,tcp"},
                                   {"mpi_yield_when_idle", "1"}};
  if (!job.interface.empty()) {
    settings.emplace_back("oob_tcp_if_include", job.interface);
    settings.emplace_back("btl_tcp_if_include", job.interface);
  }
  return settings;
}

// Variables that ranks on other machines should see, too.
std::vector<std::string> ExportedVariables() {
  std::vector<std::string> names;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable = *entry;
    if (variable.starts_with("SAVIOR_") || variable.starts_with("OMP_")) {
      names.emplace_back(variable.substr(0, variable.find('=')));
    }
  }
  std::ranges::sort(names);
  return names;
}

}  // namespace

std::vector<std::string> MpirunCommand(const Job& job) {
  std::vector<std::string> argv = {"mpirun"};
  const auto add = [&argv](std::initializer_list<std::string> words) {
    argv.insert(argv.end(), words);
  };
  // Containers have no other user; who starts `savior launch` as root has decided on it.
  if (job.root) add({"--allow-run-as-root"});
  if (!job.hosts.empty()) add({"--host", ToString(job.hosts)});
  add({"-n", fmt::format("{}", job.ranks), "--map-by", "slot", "--oversubscribe", "--bind-to",
       "none", "--tag-output", "--wdir", job.folder});
  for (const auto& [key, value] : OpenMpiSettings(job)) add({"--mca", key, value});
  // The default would notice a machine without power after 8 minutes.
  const int64_t silence = AtLeastOne(job.lease_s / 2), interval = AtLeastOne(job.lease_s / 10);
  add({"--mca", "oob_tcp_keepalive_time", fmt::format("{}", silence)});
  add({"--mca", "oob_tcp_keepalive_intvl", fmt::format("{}", interval)});
  add({"--mca", "oob_tcp_keepalive_probes", "5"});
  for (const std::string& name : ExportedVariables()) add({"-x", name});
  argv.insert(argv.end(), job.program.begin(), job.program.end());
  return argv;
}

std::vector<std::string> SrunCommand(const Job& job) {
  std::vector<std::string> argv = {"env"};
  for (const auto& [key, value] : OpenMpiSettings(job)) {
    argv.push_back(fmt::format("OMPI_MCA_{}={}", key, value));
  }
  std::vector<std::string> names;
  for (const Host& host : job.hosts) names.push_back(host.name);
  for (const std::string& word :
       {std::string("srun"), std::string("--mpi=pmix"), std::string("--kill-on-bad-exit=1"),
        // Slurm may hold on to the step of a node that has died, and its CPUs, for ever.
        std::string("--overlap"), std::string("--label"), std::string("--input=none"),
        "--chdir=" + job.folder, std::string("--distribution=block"),
        fmt::format("--nodes={}", names.size()), fmt::format("--ntasks={}", job.ranks),
        fmt::format("--ntasks-per-node={}", job.hosts.empty() ? 1 : job.hosts.front().ranks),
        fmt::format("--nodelist={}", fmt::join(names, ","))}) {
    argv.push_back(word);
  }
  argv.insert(argv.end(), job.program.begin(), job.program.end());
  return argv;
}

}  // namespace savior
