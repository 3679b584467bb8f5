// `savior refresh`: asks a running job for the next version of its codebook, or makes it of a run
// that stands still; and back (docs/refresh.md).
#pragma once

#include <CLI/CLI.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

struct RefreshArguments {
  std::string run;
  std::vector<std::string> overrides;
  bool rollback = false;
  bool wait = false;
};

void AddRefresh(CLI::App& app, RefreshArguments& arguments);

// kNotFound: no run there, or no commit yet. kFailedPrecondition: there is nothing to go back to,
// another request waits, or a gate was not passed (named; the run is as it was).
[[nodiscard]] absl::Status RefreshCodebook(const RefreshArguments& arguments, std::ostream& out);

}  // namespace savior
