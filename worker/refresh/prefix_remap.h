// Rows of prefixes of one codebook's codes as rows of the next one's, by all workers together
// (docs/refresh.md, "Prefixes").
//
// What align_table.h does for the rows of single codes, of which there are few: here are nearly as
// many rows as contents, so nobody holds them all, nor the joint weights. Each worker has triples
// (prefix before, prefix now, weight) of its own contents. They are sent to the owner of `before`,
// who adds them up and shares out that row's updates, and on to the owner of `now`, who makes that
// row: the conditional mean of remap.h,
//
//   P'[now] = sum over before of weight P[before] / (sum of the weights + lambda)
//
// Second moments get the same mean, first moments 0; of an old row's n updates its i-th share gets
// floor(until_i n) - floor(from_i n), so that none is lost or doubled.
//
// No snapshot: rows are read as they are, and whatever has changed until the switch is made again
// then. So the result is a function of the rows at the switch alone, and deterministic: the same
// bits for the same number of workers. But where rows of the table are evicted: a row that is
// forgotten between its reading and the switch still has its part, and those made count as pushed
// when they were made.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "common/store.h"
#include "worker/group.h"
#include "worker/refresh/remap.h"
#include "worker/refresh/work_budget.h"

namespace savior {

// Codes of some contents before and after.
struct CodeMoves {
  size_t levels = 0;
  uint64_t num_codes = 0;           // K
  std::span<const int32_t> before;  // [n, levels]
  std::span<const int32_t> now;     // [n, levels]
  std::span<const double> weights;  // [n]; 0: counts for nothing
};

// What a row has of a row of before.
struct PrefixPart {
  uint64_t now = 0, before = 0;  // keys of build 0
  double share = 0;              // of weights and optimizer state
  double from = 0, until = 0;    // of the updates: floor(until n) - floor(from n) of n
};

// What a worker makes: the prefixes that it owns. Nothing by default.
class PrefixRemap {
 public:
  // All members of `group` call it, each with its own contents. `kind`: not Hungarian. Errors: the
  // group's, the budget's; kFailedPrecondition: a member sent something else.
  [[nodiscard]] static absl::StatusOr<PrefixRemap> Share(const CodeMoves& mine, RemapKind kind,
                                                         double lambda, Group* group,
                                                         WorkBudget* budget);

  // Where rows are read and written (worker/tables.h).
  struct Place {
    uint32_t table = 0;
    uint32_t build_before = 0, build_now = 0;
    // Of training, that the new rows are of: the same whenever they are made.
    int64_t step = 0;
  };
  // Makes rows of the store's. `changed`: keys of build_before; only rows that one of these has a
  // part in, found without a look at the others; nothing: all. A row whose parts are all missing is
  // not made: it reads as zeros, too. `breathe` is called between calls of the store, and its
  // errors end it. Idempotent. Returns how many were made.
  [[nodiscard]] absl::StatusOr<size_t> Make(EmbeddingStore& store, const Place& place,
                                            std::optional<std::span<const uint64_t>> changed,
                                            std::chrono::milliseconds timeout,
                                            const std::function<absl::Status()>& breathe) const;

 private:
  std::span<const PrefixPart> row(size_t r) const {
    return std::span(parts_).subspan(rows_[r], rows_[r + 1] - rows_[r]);
  }

  std::vector<PrefixPart> parts_;   // by (now, before)
  std::vector<size_t> rows_ = {0};  // where the parts of each begin; and the end of the last
  std::vector<std::pair<uint64_t, size_t>> rows_of_;  // (before, row), ascending
};

// The rows of all prefixes of some contents, [n, levels - 1, dim], as they are; zeros where they
// are missing. codes: [n, levels].
[[nodiscard]] absl::StatusOr<std::vector<float>> PrefixRowsOf(std::span<const int32_t> codes,
                                                              size_t levels, uint64_t num_codes,
                                                              uint32_t table, uint32_t build,
                                                              EmbeddingStore& store,
                                                              Deadline deadline);

}  // namespace savior
