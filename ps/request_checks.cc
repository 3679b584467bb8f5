#include "ps/request_checks.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <bit>

#include "common/random.h"
#include "common/routing.h"
#include "common/store_checks.h"

namespace savior {

absl::Status CheckCodebook(uint32_t version, const ServedShard& served) {
  if (version == served.codebook_version) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "codebook version ", version, ": this shard has version ", served.codebook_version));
}

absl::Status CheckHeader(const MessageHeader& header, const ServedShard& served) {
  if (header.incarnation != served.incarnation) {
    return absl::FailedPreconditionError(absl::StrCat("incarnation ", header.incarnation,
                                                      " of the run: this is incarnation ",
                                                      served.incarnation));
  }
  if (header.type != MessageType::kSwitchCodebook) {
    SAVIOR_RETURN_IF_ERROR(CheckCodebook(header.codebook_version, served));
  }
  if (header.shard != served.shard) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request for shard ", header.shard, ": this is shard ", served.shard));
  }
  return absl::OkStatus();
}

SectionChecker::SectionChecker(std::span<const TableSpec> tables, const ServedShard& served)
    : tables_(tables), shard_(served.shard), bucket_map_(EvenBucketMap(served.shards)) {}

absl::Status SectionChecker::Check(MessageType type, const RequestSection& section) {
  SAVIOR_RETURN_IF_ERROR(CheckTable(tables_, section.table));
  const TableSpec& spec = tables_[section.table];
  if (HasWholeRows(type)) SAVIOR_RETURN_IF_ERROR(CheckHasWholeRows(spec));
  const uint32_t dim = HasWholeRows(type) ? RowFloats(spec) : spec.dim;
  if (section.dim != dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("table ", spec.name, ": rows of dim ", section.dim, ", the table has ", dim));
  }
  // At most half full. Keys come from the network: a key twice would break the tables' laws.
  const std::span<const uint64_t> keys = section.keys;
  const size_t size = std::bit_ceil(2 * keys.size() + 1);
  places_.assign(size, 0);
  for (size_t i = 0; i < keys.size(); ++i) {
    const uint64_t hash = MixTwo(section.table, keys[i]);
    if (bucket_map_[hash >> 52] != shard_) {
      return absl::InvalidArgumentError(
          absl::StrCat("table ", spec.name, ", key ", keys[i], ": not a key of shard ", shard_));
    }
    size_t place = hash & (size - 1);
    while (places_[place] != 0) {
      if (keys[places_[place] - 1] == keys[i]) {
        return absl::InvalidArgumentError(
            absl::StrCat("table ", spec.name, ", key ", keys[i], ": twice in one request"));
      }
      place = (place + 1) & (size - 1);
    }
    places_[place] = static_cast<uint32_t>(i + 1);
  }
  return absl::OkStatus();
}

}  // namespace savior
