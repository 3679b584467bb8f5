// Any bytes as a request: decoded, and checked against tables as a shard does.
#include "ps/request_checks.h"
#include "tests/fuzz/fuzzed_frame.h"

namespace savior {
namespace {

volatile uint64_t sink = 0;

void Decode(const AlignedBytes& frame) {
  Request request;
  if (!DecodeRequest(frame.span(), &request).ok()) return;
  std::vector<TableSpec> tables(2);
  tables[0].dim = 4;
  tables[1].dim = 8;
  const ServedShard served{.shard = request.header.shard % 2, .shards = 2};
  SectionChecker checker(tables, served);
  static_cast<void>(CheckHeader(request.header, served).ok());
  static_cast<void>(CheckCodebook(request.header.codebook_version, served).ok());
  for (const RequestSection& section : request.sections) {
    sink = sink + SumOf(std::as_bytes(section.keys)) + SumOf(section.values) +
           SumOf(std::as_bytes(section.updates));
    static_cast<void>(checker.Check(request.header.type, section).ok());
  }
}

}  // namespace
}  // namespace savior

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  savior::Decode(savior::AsFrame(data, size));
  savior::Decode(savior::AsSealedFrame(data, size));
  return 0;
}
