// Tiny runs that publish bundles while they train.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "launcher/bundle_export.h"
#include "launcher/commit.h"
#include "tests/launcher/small_run.h"

namespace savior {

// Into a folder beside the run's: the next export starts when the one before has ended.
inline Config ThatPublishes(Config config) {
  config.exports.dir = config.run.dir + "-bundles";
  config.exports.every_s = 0.001;
  config.exports.full_every = 2;
  config.exports.keep = 100;
  return config;
}

// Steps of a tiny run are faster than commits and exports by far: after every step it waits until
// no commit is being written, and after every tenth until the export that runs has ended, which
// the publisher has yet to find out; `then` is called with that step.
inline RunOptions WaitingForExports(
    const Config& config, std::function<void(int64_t step)> then = [](int64_t) {}) {
  RunOptions options;
  options.program = SAVIOR_PROGRAM;
  const std::filesystem::path commits = std::filesystem::path(config.run.dir) / "commits";
  options.after_step = [commits, then = std::move(then)](int64_t step, const StepFigures&) {
    const auto writing = [&] {
      std::error_code error;
      for (const auto& entry : std::filesystem::directory_iterator(commits, error)) {
        if (entry.path().string().ends_with(kUnfinished)) return true;
      }
      return false;
    };
    while (writing()) ::usleep(1000);
    ::usleep(2000);  // until the run can know of it
    if (step == 0 || step % 10 != 0) return;
    siginfo_t ended;
    ::waitid(P_ALL, 0, &ended, WEXITED | WNOWAIT);  // or there is no child
    then(step);
  };
  return options;
}

// Steps of the bundles in `dir`, with their numbers since the full one.
inline std::map<int64_t, int64_t> BundlesIn(const std::filesystem::path& dir) {
  std::map<int64_t, int64_t> found;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    const auto bundle = OpenBundle(entry.path(), /*digests=*/false);
    if (!entry.is_symlink() && bundle.ok()) {
      found[bundle->manifest.step] = bundle->manifest.sequence;
    }
  }
  return found;
}

}  // namespace savior
