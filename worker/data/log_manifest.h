// manifest.json of a training log, and the names of its files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/data/training_log.h"

namespace savior {

// Part of every fingerprint: logs of another version are prepared anew.
inline constexpr int kLogVersion = 1;
inline constexpr char kManifestName[] = "manifest.json";
inline constexpr int64_t kSecondsPerDay = 86'400;

struct FileEntry {
  int64_t bytes = 0;
  std::string digest;  // XXH3-128, hex
};

// Where a day is: a record batch of the two files that start with day `file_start`.
struct DayPlace {
  int64_t file_start = 0;  // unix seconds
  int batch = 0;
};

struct LogManifest {
  LogSchema schema;
  int64_t users = 0, items = 0, contents = 0, items_without_vector = 0;
  int64_t impressions = 0, requests = 0, behaviours = 0, clicks = 0, conversions = 0;
  std::vector<DayInfo> days;                  // ascending
  std::vector<DayPlace> day_places;           // [days]
  std::vector<int64_t> timeline_first_users;  // first user number of each timelines-*.arrow
  std::map<std::string, FileEntry> files;     // path below the log -> what it must be
  std::string fingerprint;                    // digest of all of the above
};

std::string VectorsName(const std::string& modality);
std::string TimelinesName(size_t part);
// `file_start` as in DayPlace; `what` is "requests" or "rows".
std::string DaysName(int64_t file_start, const std::string& what);

// Digests every file below `folder` into `manifest`, sets its fingerprint and writes it.
[[nodiscard]] absl::Status WriteLogManifest(const std::filesystem::path& folder,
                                            LogManifest* manifest);

// kNotFound: no manifest, so no log; kDataLoss: it does not decode or its fingerprint does not
// hold.
[[nodiscard]] absl::StatusOr<LogManifest> ReadLogManifest(const std::filesystem::path& folder);

}  // namespace savior
