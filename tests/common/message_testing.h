// Small valid frames of every type, for tests and for the fuzzers' corpora.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/message.h"

namespace savior {

// A frame's bytes at a multiple of 8, whatever their number.
class AlignedBytes {
 public:
  explicit AlignedBytes(size_t size) : words_((size + 7) / 8 + 1), size_(size) {}
  explicit AlignedBytes(std::span<const std::byte> bytes) : AlignedBytes(bytes.size()) {
    std::copy(bytes.begin(), bytes.end(), span().begin());
  }
  std::span<std::byte> span() { return {reinterpret_cast<std::byte*>(words_.data()), size_}; }
  std::span<const std::byte> span() const {
    return {reinterpret_cast<const std::byte*>(words_.data()), size_};
  }

 private:
  std::vector<uint64_t> words_;
  size_t size_;
};

inline MessageHeader SomeHeader(MessageType type, ValueDtype dtype = ValueDtype::kFloat32) {
  return {.type = type,
          .dtype = dtype,
          .incarnation = 0x1122334455667788,
          .codebook_version = 3,
          .worker = 5,
          .parts = 1,
          .client = 0xabcdef,
          .sequence = 9,
          .step = 1000,
          .shard = 2};
}

// Two tables: 3 keys of dim 4, 1 key of dim 8. Values are 0, 1, 2, ..., update counts 6.
inline AlignedBytes RequestFrame(MessageType type, ValueDtype dtype = ValueDtype::kFloat32) {
  const bool sections = type != MessageType::kStats && type != MessageType::kCancelHints &&
                        type != MessageType::kCheckpoint &&
                        type != MessageType::kCheckpointWritten &&
                        type != MessageType::kSwitchCodebook;
  size_t bytes = kMessageHeaderBytes;
  if (sections) {
    bytes += RequestSectionBytes(type, dtype, 4, 3) + RequestSectionBytes(type, dtype, 8, 1);
  }
  AlignedBytes frame(bytes);
  MessageWriter writer(frame.span(), SomeHeader(type, dtype));
  if (sections) {
    std::vector<float> values(12);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    const bool has_values =
        type == MessageType::kPush || type == MessageType::kPut || type == MessageType::kWriteRows;
    const auto first = writer.AddRequestSection(0, 4, 3, type == MessageType::kPull);
    for (size_t i = 0; i < 3; ++i) first.keys[i] = 100 + i;
    if (has_values) EncodeValues(dtype, values, first.values);
    const auto second = writer.AddRequestSection(1, 8, 1, false);
    second.keys[0] = UINT64_MAX;
    if (has_values) EncodeValues(dtype, std::span(values).first(8), second.values);
    for (const auto& out : {first.updates, second.updates}) std::fill(out.begin(), out.end(), 6);
  }
  writer.Finish();
  return frame;
}

inline AlignedBytes RowsFrame(ValueDtype dtype = ValueDtype::kFloat32) {
  AlignedBytes frame(kMessageHeaderBytes + RowsSectionBytes(dtype, 4, 3, true) +
                     RowsSectionBytes(dtype, 8, 1, false));
  MessageWriter writer(frame.span(), SomeHeader(MessageType::kRows, dtype));
  const std::vector<float> values(12, 0.5f);
  const auto first = writer.AddRows(0, 4, 3, true);
  EncodeValues(dtype, values, first.values);
  std::fill(first.updates.begin(), first.updates.end(), 7);
  EncodeValues(dtype, std::span(values).first(8), writer.AddRows(1, 8, 1, false).values);
  writer.Finish();
  return frame;
}

inline AlignedBytes DoneFrame() {
  AlignedBytes frame(kMessageHeaderBytes);
  MessageWriter(frame.span(), SomeHeader(MessageType::kDone)).Finish();
  return frame;
}

inline AlignedBytes CountersFrame() {
  AlignedBytes frame(kMessageHeaderBytes + CountersSectionBytes(2));
  MessageWriter writer(frame.span(), SomeHeader(MessageType::kCounters));
  const std::span<uint64_t> counters = writer.AddCounters(1, 2);
  counters[0] = 11;
  counters[1] = 22;
  writer.Finish();
  return frame;
}

inline AlignedBytes ErrorFrame(const absl::Status& status) {
  AlignedBytes frame(kMessageHeaderBytes + ErrorBytes(status));
  MessageWriter writer(frame.span(), SomeHeader(MessageType::kError));
  writer.AddError(status);
  writer.Finish();
  return frame;
}

struct NamedFrame {
  std::string name;
  AlignedBytes frame;
};

inline std::vector<NamedFrame> AllRequests() {
  return {{"pull", RequestFrame(MessageType::kPull)},
          {"push", RequestFrame(MessageType::kPush)},
          {"push_half", RequestFrame(MessageType::kPush, ValueDtype::kFloat16)},
          {"put_bfloat", RequestFrame(MessageType::kPut, ValueDtype::kBfloat16)},
          {"hint", RequestFrame(MessageType::kHint)},
          {"cancel_hints", RequestFrame(MessageType::kCancelHints)},
          {"stats", RequestFrame(MessageType::kStats)},
          {"checkpoint", RequestFrame(MessageType::kCheckpoint)},
          {"checkpoint_written", RequestFrame(MessageType::kCheckpointWritten)},
          {"read_rows", RequestFrame(MessageType::kReadRows)},
          {"write_rows", RequestFrame(MessageType::kWriteRows)},
          {"switch_codebook", RequestFrame(MessageType::kSwitchCodebook)}};
}

inline std::vector<NamedFrame> AllReplies() {
  return {{"rows", RowsFrame()},
          {"rows_half", RowsFrame(ValueDtype::kFloat16)},
          {"done", DoneFrame()},
          {"counters", CountersFrame()},
          {"error", ErrorFrame(absl::UnavailableError("shard 1 has stopped"))}};
}

}  // namespace savior
