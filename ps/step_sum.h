// The pushes of one step, kept until every worker's are here, and then added up.
//
// Gradients of a key are added in the order of the workers' numbers, and keys come in the order in
// which worker 0, then worker 1, ... name them: whatever the network did, and however many shards
// there are, a row gets the same bits.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "common/message.h"
#include "common/status.h"
#include "common/store.h"
#include "common/transport.h"
#include "ps/shard.h"

namespace savior {

// Single-threaded. Holds the frames themselves: 4 bytes a gradient, or as they came.
class StepSum {
 public:
  // tables outlive it.
  explicit StepSum(std::span<const TableSpec> tables) : tables_(tables), sums_(tables.size()) {}

  // Keeps a message of a push, which has been checked.
  void Keep(Frame frame);
  // Takes the last message kept out again.
  void DropLast() { kept_.pop_back(); }

  // The sums of all that is kept, one part per table that has keys. Valid until the next call.
  // kInvalidArgument: a sum of finite gradients is not finite, in a table that rejects that (table
  // and key named).
  [[nodiscard]] absl::StatusOr<std::span<const WritePart>> Sum();
  void Clear() { kept_.clear(); }
  bool empty() const { return kept_.empty(); }

 private:
  struct TableSum {
    absl::flat_hash_map<uint64_t, uint32_t> place;  // of a key
    std::vector<uint64_t> keys;
    std::vector<float> values;  // [keys, dim]
  };
  // They do not move: what is decoded points into them.
  struct Kept {
    Frame frame;
    Request request = {};
  };

  [[nodiscard]] absl::Status Decode();
  void Add(const RequestSection& section, ValueDtype dtype);

  const std::span<const TableSpec> tables_;
  std::deque<Kept> kept_;
  std::vector<TableSum> sums_;  // [tables]
  std::vector<WritePart> parts_;
  std::vector<float> floats_;
};

}  // namespace savior
