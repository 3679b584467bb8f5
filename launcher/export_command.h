// `savior export`: commit -> serving bundle, full or delta; proof and merging of bundles.
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

struct ExportArguments {
  std::string path = {};  // a run or a commit; with --verify or --merge: the bundles' folder
  std::string out = {};
  std::optional<int64_t> since = {};
  std::string precision = "float32";
  bool hps = false, triton = false;
  int64_t golden = 64;
  int64_t keep = 0;  // full bundles, with their deltas; 0: all
  bool verify = false, merge = false;
  std::string bundle = {};  // of --verify and --merge; empty: the current one
};

void AddExport(CLI::App& app, ExportArguments& arguments);

// Prints what was done, and the line that serves it.
[[nodiscard]] absl::Status RunExport(const ExportArguments& arguments, std::ostream& out);

}  // namespace savior
