// What a shard refuses of a request from the network before it touches a row.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/message.h"
#include "common/status.h"
#include "common/store.h"

namespace savior {

// Whom a server takes requests from.
struct ServedShard {
  uint32_t shard = 0;
  uint32_t shards = 1;
  uint64_t incarnation = 0;
  uint32_t codebook_version = 0;
};

// kFailedPrecondition: of another incarnation of the run, or another codebook version (both are
// named; a switch of versions may come again under another one, and is for its own check).
// kInvalidArgument: for another shard.
[[nodiscard]] absl::Status CheckHeader(const MessageHeader& header, const ServedShard& served);

// kFailedPrecondition names both versions.
[[nodiscard]] absl::Status CheckCodebook(uint32_t version, const ServedShard& served);

// Single-threaded: it keeps its scratch memory.
class SectionChecker {
 public:
  // tables outlive the checker.
  SectionChecker(std::span<const TableSpec> tables, const ServedShard& served);

  // Of a request of `type`. kInvalidArgument: no such table, another dim than the table's (whole
  // rows: its RowFloats, and it is not frozen), a key of another shard, a key twice.
  [[nodiscard]] absl::Status Check(MessageType type, const RequestSection& section);

 private:
  const std::span<const TableSpec> tables_;
  const uint32_t shard_;
  const std::vector<uint32_t> bucket_map_;
  // An open-addressed set of the section's keys: index + 1 of the key, 0 if free.
  std::vector<uint32_t> places_;
};

}  // namespace savior
