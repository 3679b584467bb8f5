// A training run that says the losses of each of its steps, in hex, and dies by SIGKILL after one:
//   told_run CONFIG LOSSES STEP     (STEP -1: it does not die)
// It goes on from the newest commit, as `savior train --resume` does.
#include <fmt/format.h>
#include <signal.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

#include "common/config.h"
#include "launcher/run_commands.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto config = savior::LoadConfig(argv[1], {});
  if (!config.ok()) return 2;
  std::ofstream losses(argv[2], std::ios::app);
  const int64_t last = std::stoll(argv[3]);
  savior::RunOptions options{.resume = true};
  options.after_step = [&](int64_t step, const savior::StepFigures& figures) {
    losses << fmt::format("{} {:a} {:a}", step, figures.losses.ctr, figures.losses.ctcvr)
           << std::endl;
    if (step == last) ::kill(::getpid(), SIGKILL);
  };
  std::ostringstream out;
  const auto result = savior::Train(*config, options, out);
  if (!result.ok()) std::fprintf(stderr, "%s\n", std::string(result.status().message()).c_str());
  return result.ok() ? 0 : 1;
}
