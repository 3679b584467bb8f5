// Just enough of protobuf's wire format to write messages: varints, strings, nested messages and
// packed arrays. (libprotobuf itself clashes with the copy inside LibTorch.)
// https://protobuf.dev/programming-guides/encoding
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace savior {

// One message; its fields in the order of the calls. Thread-compatible.
class ProtobufMessage {
 public:
  // int32, int64, enum. Negative numbers take ten bytes, as the format says.
  void Int(uint32_t field, int64_t value) {
    Varint(uint64_t{field} << 3);
    Varint(static_cast<uint64_t>(value));
  }
  // string, bytes, and a nested message's bytes.
  void Bytes(uint32_t field, std::string_view value) {
    Varint(uint64_t{field} << 3 | kLengthDelimited);
    Varint(value.size());
    bytes_ += value;
  }
  void Message(uint32_t field, const ProtobufMessage& message) { Bytes(field, message.bytes_); }

  const std::string& bytes() const { return bytes_; }

 private:
  static constexpr uint64_t kLengthDelimited = 2;

  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

}  // namespace savior
