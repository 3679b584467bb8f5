// `savior launch` and `savior slurm` on the command line.
#pragma once

#include "launcher/slurm_script.h"
#include "launcher/supervisor.h"

namespace CLI {
class App;
}

namespace savior {

void AddLaunch(CLI::App& app, LaunchOptions& options);
void AddSlurm(CLI::App& app, SlurmOptions& options);

// The program's exit code: 0 finished or stopped in order, 2 bad input (launcher/exit_code.h).
int RunLaunch(const LaunchOptions& options);

}  // namespace savior
