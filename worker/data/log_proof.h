// What a run has trained on, as digests: proof that a log which has grown since is still the same
// where it matters. Digests are logical, over ids and text: numbers of items and codes of strings
// change when a log grows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"

namespace savior {

struct LogProof {
  struct Day {
    int64_t start = 0;  // unix seconds
    int64_t requests = 0;
    std::vector<uint64_t> digests;  // [columns]
    bool operator==(const Day&) const = default;
  };

  Period trained;  // whole days
  // What about the data -> what it is, for people: names of features, lengths of vectors.
  std::vector<std::pair<std::string, std::string>> schema;
  std::vector<std::string> columns;  // request_id, ..., history, ..., ctx_*, num_*
  std::vector<Day> days;             // of `trained`, ascending
  std::vector<int64_t> items;        // [items] all ids of the log, ascending
  std::vector<uint64_t> vectors;     // [items] digest of an item's vectors; 0: it has none
  bool operator==(const LogProof&) const = default;
};

// Reads the requests of `trained`, and of the timelines what lies before them, once. A request's
// history counts as far as it goes back, so behaviours of any age are covered. Not covered: facts
// of items other than their vectors (features, numbers, titles, listing times), which may change.
// Memory: 16 bytes per user, and the proof: 16 per item. Errors: those of reading days.
[[nodiscard]] absl::StatusOr<LogProof> ProveLog(const TrainingLog& log, Period trained);

// Whether a log with proof `now` has all that `former` proves: the schema, the days of
// former.trained and nothing else in them, every item, every item's vectors, and for every content
// the same first item (whose id is its key; worker/tables.h). Days after former.trained, items and
// contents may be new, and items without a vector may have got one. `former.trained` lies in
// `now.trained` and begins with it. kFailedPrecondition names the first that differs: day and
// column, or item.
[[nodiscard]] absl::Status CheckGrown(const LogProof& former, const LogProof& now,
                                      const TrainingLog& log);

// The contents of `log`, ascending, that the log of `former` did not have; CheckGrown is OK.
std::vector<int32_t> NewContents(const LogProof& former, const TrainingLog& log);

// Digests of every content's vectors [contents]; none is 0.
std::vector<uint64_t> ContentDigests(const TrainingLog& log);

// A file's bytes: same proof, same bytes. Little-endian: the length of the header (8 bytes), the
// header (JSON), items (int64 each), vectors (uint64 each).
std::string EncodeProof(const LogProof& proof);
// kDataLoss: not what EncodeProof wrote (`path` is named).
[[nodiscard]] absl::StatusOr<LogProof> DecodeProof(const std::filesystem::path& path,
                                                   const std::string& bytes);

}  // namespace savior
