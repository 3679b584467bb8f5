// `savior prepare`: raw Parquet -> training log (layout: worker/data/training_log.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/status.h"

namespace savior {

struct PrepareOptions {
  std::filesystem::path raw;  // folder with impressions, behaviours, items, item_vectors (.parquet
                              // or folder of parts)
  std::filesystem::path
      out;  // the log; must not exist, or be an older log or unfinished work to be replaced
  int64_t memory_bytes = int64_t{1}
                         << 30;  // what sorting may hold at once; the rest is spilled next to `out`
};

struct PrepareSummary {
  int64_t impressions = 0, requests = 0, behaviours = 0, users = 0, items = 0, contents = 0,
          items_without_vector = 0;
  double click_rate = 0, conversion_rate = 0;
};

// Streams; memory bounded by memory_bytes plus a few bytes per item and user and the largest single
// day. Shows progress. All or nothing: work is done in `<out>.part`, published by rename.
// kInvalidArgument names file, row and column of what the raw schema refuses (docs/datasets.md);
// kResourceExhausted: disk full (nothing is left that could be taken for whole).
[[nodiscard]] absl::StatusOr<PrepareSummary> Prepare(const PrepareOptions& options);

// The same of a catalogue alone: raw has items and item_vectors; the log has no requests, no
// behaviours and no users.
[[nodiscard]] absl::StatusOr<PrepareSummary> PrepareCatalogue(const PrepareOptions& options);

// Digest of the raw data as Prepare would read it (names, sizes, modification times of the files
// and the prepare format version): the key of the cache of prepared logs. kNotFound names a missing
// file.
[[nodiscard]] absl::StatusOr<std::string> RawFingerprint(const std::filesystem::path& raw);

}  // namespace savior
