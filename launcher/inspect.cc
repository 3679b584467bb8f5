#include "launcher/inspect.h"

#include <CLI/CLI.hpp>

namespace savior {
void AddInspect(CLI::App&, InspectArguments&) {}
absl::Status Inspect(const InspectArguments&, std::ostream&) { return absl::UnimplementedError("inspect"); }
}  // namespace savior
