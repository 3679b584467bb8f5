// From a commit to a serving bundle (serving/bundle.h), and the proof that it serves what was
// trained.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <ostream>
#include <string>

#include "common/status.h"
#include "serving/bundle.h"
#include "serving/golden.h"

namespace savior {

struct ExportOptions {
  std::filesystem::path from;  // a run folder (its newest whole commit) or a commit
  std::filesystem::path out;   // bundles' folder
  // A delta since the bundle of this step in `out`; none: a full bundle.
  std::optional<int64_t> since = {};
  Precision precision = Precision::kFloat32;  // a delta takes its base's
  bool hps = false, triton = false;           // full bundles only
  int64_t golden = 64;                        // requests
  // That read rows; 0: one for each core. The bundle is the same, byte for byte.
  size_t threads = 0;
};

// Atomic: `out` has the whole bundle, or nothing of it. Errors: those of opening the commit and the
// data of its run, of the base, of writing (a full disk is kResourceExhausted).
[[nodiscard]] absl::StatusOr<Bundle> ExportBundle(const ExportOptions& options);

// The chain of `dir`'s bundle `name` as a full bundle in folder `out`: byte for byte the tables
// that a full export of the same commit would have.
[[nodiscard]] absl::StatusOr<Bundle> MergeBundle(const std::filesystem::path& dir,
                                                 const std::string& name,
                                                 const std::filesystem::path& out);

struct Verified {
  Parity parity;
  double tolerance = 0;
  uint64_t rows = 0;          // in all tables
  int64_t rows_compared = 0;  // with the commit's; 0: it is no longer there
};

// Of scores that a bundle may differ from the live model's by.
double Tolerance(Precision precision);

// Proves bundle `name` of `dir`, with all that it is based on: every digest, the order and number
// of rows, golden requests within the tolerance, and a sample of rows of every table against the
// commit's. kDataLoss says what does not hold. kNewest: of what a delta is based on manifests,
// sizes and keys only, since its bytes were proved when it was written, and are by who loads it.
enum class Digests : uint8_t { kAll, kNewest };
[[nodiscard]] absl::StatusOr<Verified> VerifyBundle(const std::filesystem::path& dir,
                                                    const std::string& name,
                                                    Digests digests = Digests::kAll);

}  // namespace savior
