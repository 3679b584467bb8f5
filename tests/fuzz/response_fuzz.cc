// Any bytes as a reply: decoded, and every part read.
#include "tests/fuzz/fuzzed_frame.h"

namespace savior {
namespace {

volatile uint64_t sink = 0;

void Decode(const AlignedBytes& frame) {
  Reply reply;
  if (!DecodeReply(frame.span(), &reply).ok()) return;
  sink = sink + reply.error.message().size();
  for (const ReplySection& section : reply.sections) {
    sink = sink + SumOf(section.values) + SumOf(std::as_bytes(section.updates)) +
           SumOf(std::as_bytes(section.counters));
  }
}

}  // namespace
}  // namespace savior

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  savior::Decode(savior::AsFrame(data, size));
  savior::Decode(savior::AsSealedFrame(data, size));
  return 0;
}
