// `savior inspect`: looks into commits, tables, codebooks and bundles, compares and digests
// commits.
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
  std::string what = {};  // "commit", "table", "codebook", "bundle", "diff" or "digest"
  // A commit folder, or a run folder (its newest whole commit); a bundle, or a folder of bundles
  // (its current one).
  std::string path = {};
  std::string other = {};  // diff: the later commit
  bool json = false;       // diff, digest: as one object
  bool verify = false;     // commit: every digest, of all commits of a run folder; bundle: likewise
  std::string table = {};  // table: its name; empty: all tables, a line each
  std::optional<uint64_t> key = {};  // table: one row
  int64_t top = 10;                  // codebook: most used codes per level, with example titles
};

void AddInspect(CLI::App& app, InspectArguments& arguments);

// "1.5 MiB"
std::string SizeText(uint64_t bytes);

// `savior inspect bundle`.
[[nodiscard]] absl::Status InspectBundle(const InspectArguments& arguments, std::ostream& out);

// `savior inspect diff`: of every table, the rows that only the later commit has, only the earlier
// one, and those that both have with other contents.
[[nodiscard]] absl::Status InspectDiff(const InspectArguments& arguments, std::ostream& out);

// `savior inspect digest`: of every table rows, updates and a digest of all that the rows hold, and
// that of the dense weights and their moments. Equal for runs that learned the same.
[[nodiscard]] absl::Status InspectDigest(const InspectArguments& arguments, std::ostream& out);

// Prints to `out`; changes nothing in the commit. kNotFound: no such commit, table (the nearest is
// named) or row; kDataLoss: damaged (file named).
[[nodiscard]] absl::Status Inspect(const InspectArguments& arguments, std::ostream& out);

}  // namespace savior
