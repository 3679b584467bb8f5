// A run's metrics.jsonl as a stream of numbers: read twice from front to back, never held, so that
// a file of a million lines takes seconds and no memory.
//
// A run that went on from a commit has done some steps twice, and its file says both. Of what was
// done twice the later one holds: a line is superseded if a line further down begins again at its
// step or before it.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace savior {

struct MetricsValue {
  size_t name = 0;  // MetricsFile::names
  double value = 0;
};

struct MetricsLine {
  int64_t step = 0;
  bool superseded = false;
  std::span<const MetricsValue> values;  // all its numbers, `step` among them
};

// Single-threaded.
class MetricsFile {
 public:
  // A missing file has no lines; neither has the one that a running job has begun to write.
  // kDataLoss names file and line.
  [[nodiscard]] static absl::StatusOr<MetricsFile> Open(const std::filesystem::path& path);

  bool empty() const { return lines_ == 0; }
  int64_t lines() const { return lines_; }
  int64_t restarts() const { return static_cast<int64_t>(restarts_.size()); }
  // Of lines that hold.
  int64_t first_step() const { return first_step_; }
  int64_t last_step() const { return last_step_; }

  // Calls `each` with the lines that Open has seen, in order; ends with its first error. kDataLoss
  // names file and line.
  [[nodiscard]] absl::Status ForEach(const std::function<absl::Status(const MetricsLine&)>& each);

  // By number, of all lines so far: "loss_ctr", "tables.item.rows", "codebook.drift.perplexity.0".
  const std::vector<std::string>& names() const { return names_; }

 private:
  // The line that begins at `offset` and is line `line` starts again at `step`.
  struct Restart {
    int64_t line = 0;
    int64_t step = 0;
    int64_t least = std::numeric_limits<int64_t>::max();  // of its step and those of later ones
  };
  class LineReader;

  absl::Status Scan();
  size_t NumberOf(std::string_view name, size_t hint);

  std::filesystem::path path_;
  int64_t lines_ = 0;
  int64_t first_step_ = -1, last_step_ = -1;
  std::vector<Restart> restarts_;
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, size_t> numbers_;  // by name
  std::vector<size_t> latest_;  // of the latest line: what comes next is mostly the same
};

}  // namespace savior
