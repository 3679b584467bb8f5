// A walk over the rows of a table of many shards, in the order of the keys.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <vector>

#include "common/status.h"
#include "ps/row_slice.h"

namespace savior {

// Of every shard it holds a slice, and reads the one behind it meanwhile. Single-threaded.
class RowCursor {
 public:
  // Fills a slice with a shard's rows from a key on (RowSlice::Fill); any thread, several at once.
  using Fill =
      std::function<absl::Status(uint32_t shard, const RowSlice::Start& start, RowSlice* slice)>;

  RowCursor(uint32_t shards, Fill fill);
  RowCursor(const RowCursor&) = delete;
  RowCursor& operator=(const RowCursor&) = delete;

  // Goes to the next row, at first to the first. False: there is none.
  [[nodiscard]] absl::StatusOr<bool> Next();
  // After Next has said true; valid until the next call of it.
  StoredRow row() const { return at_->now.row(); }

 private:
  struct Source {
    uint32_t shard = 0;
    RowSlice now, behind;
    std::future<absl::Status> reading;  // of `behind`; waits when destroyed
  };
  void ReadFrom(Source* source, const RowSlice::Start& start);
  absl::Status Advance(Source* source);

  const Fill fill_;
  std::vector<Source> sources_;
  Source* at_ = nullptr;  // whose first row is the current one
  bool begun_ = false;
};

}  // namespace savior
