// `savior inspect`: looks into commits, tables and codebooks.
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

#include "common/status.h"

namespace CLI {
class App;
}

namespace savior {

struct InspectArguments {
  std::string what = {};             // "commit", "table" or "codebook"
  std::string path = {};             // a commit folder, or a run folder (its newest whole commit)
  bool verify = false;               // commit: every digest, of all commits of a run folder
  std::string table = {};            // table: its name; empty: all tables, a line each
  std::optional<uint64_t> key = {};  // table: one row
  int64_t top = 10;                  // codebook: most used codes per level, with example titles
};

void AddInspect(CLI::App& app, InspectArguments& arguments);

// Prints to `out`; changes nothing in the commit. kNotFound: no such commit, table (the nearest is
// named) or row; kDataLoss: damaged (file named).
[[nodiscard]] absl::Status Inspect(const InspectArguments& arguments, std::ostream& out);

}  // namespace savior
