// What a fuzzer's bytes become before they are decoded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "common/message.h"
#include "tests/common/message_testing.h"

namespace savior {

inline AlignedBytes AsFrame(const uint8_t* data, size_t size) {
  return AlignedBytes(std::as_bytes(std::span(data, size)));
}

// With a length and a digest that fit, so that the rest of the decoder is reached: no fuzzer finds
// these by itself.
inline AlignedBytes AsSealedFrame(const uint8_t* data, size_t size) {
  AlignedBytes frame = AsFrame(data, size);
  if (size < kMessageHeaderBytes) return frame;
  constexpr size_t kPayloadBytesAt = 56;
  const uint64_t payload = size - kMessageHeaderBytes;
  std::memcpy(frame.span().data() + kPayloadBytesAt, &payload, sizeof(payload));
  SealFrame(frame.span());
  return frame;
}

// Reads every byte, so that the address sanitizer sees what a span covers.
inline uint64_t SumOf(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<uint64_t>(byte);
  return sum;
}

}  // namespace savior
