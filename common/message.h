// The wire format: what a worker and a shard say to each other. Grammar: docs/wire_format.md.
//
// One request or reply is one frame of at most kMaxFrameBytes. Reading copies nothing: what is
// decoded points into the frame, which must lie at a multiple of 8 and outlive it. Every length is
// checked against the bytes that are there before it is used, so any bytes may be given to the
// decoders; the digest is checked before anything but the frame's own length. All functions are
// thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "common/value_codec.h"

namespace savior {

inline constexpr uint16_t kWireVersion = 4;
inline constexpr size_t kMaxFrameBytes = size_t{64} << 20;
inline constexpr uint32_t kMaxSections = 1024;
inline constexpr uint32_t kMaxWireDim = 65536;
inline constexpr size_t kMessageHeaderBytes = 72;

// The numbers are part of the format.
enum class MessageType : uint8_t {
  kPull = 1,               // -> kRows
  kPush = 2,               // -> kDone
  kPut = 3,                // -> kDone
  kHint = 4,               // no reply
  kCancelHints = 5,        // no reply
  kStats = 6,              // -> kCounters
  kCheckpoint = 7,         // -> kDone, when the shard is frozen
  kCheckpointWritten = 8,  // -> kDone, if it is
  kReadRows = 9,           // -> kRows, whole ones
  kWriteRows = 10,         // -> kDone
  kSwitchCodebook = 11,    // -> kDone
  kRows = 65,
  kDone = 66,
  kCounters = 67,
  kError = 68,  // to any request
};

constexpr bool IsRequest(MessageType type) { return static_cast<uint8_t>(type) < 64; }
// Whether a request of this type is answered.
constexpr bool IsAnswered(MessageType type) {
  return type != MessageType::kHint && type != MessageType::kCancelHints;
}

// Whether it is about whole rows (common/store.h): the sections' dim is RowFloats then, and values
// are float32.
constexpr bool HasWholeRows(MessageType type) {
  return type == MessageType::kReadRows || type == MessageType::kWriteRows;
}

struct MessageHeader {
  MessageType type = MessageType::kPull;
  ValueDtype dtype = ValueDtype::kFloat32;  // of all values in the message
  uint64_t incarnation = 0;                 // of the run: one per start
  uint32_t codebook_version = 0;            // switch: served until now
  uint16_t worker = 0;                      // number of the worker that asks
  uint16_t parts = 0;     // push: messages of this worker's push of this step to this shard
  uint64_t client = 0;    // drawn at random by each client: names its sequence numbers
  uint64_t sequence = 0;  // a reply has its request's; 0 in requests that are not answered
  // Push, hint, write: the training step; pull: likewise, or kAnyStep (common/store.h); cancel: the
  // first step to forget; both of a checkpoint: steps done; switch: the new codebook version.
  int64_t step = 0;
  uint32_t shard = 0;  // that the request is for
  bool operator==(const MessageHeader&) const = default;
};

// A table's part of a request.
struct RequestSection {
  uint32_t table = 0;
  uint32_t dim = 0;
  bool updates_wanted = false;     // pull: reply with update counts, too
  std::span<const uint64_t> keys;  // [n]
  std::span<const std::byte>
      values;  // push, put, write: [n, dim] of the header's dtype, else empty
  std::span<const uint32_t> updates;  // write: [n], else empty
};

struct Request {
  MessageHeader header;
  std::vector<RequestSection> sections;
};

// A table's part of a reply, in the request's order.
struct ReplySection {
  uint32_t table = 0;
  uint32_t dim = 0;
  uint32_t rows = 0;
  std::span<const std::byte> values;   // kRows: [rows, dim] of the header's dtype
  std::span<const uint32_t> updates;   // kRows: [rows] if wanted, or whole ones; else empty
  std::span<const uint64_t> counters;  // kCounters
};

struct Reply {
  MessageHeader header;
  std::vector<ReplySection> sections;
  absl::Status error;  // kError: what the shard said, never OK; else OK
};

// The header of a frame, if that much is there and it starts as a message of this format does.
// Nothing else is checked: good for an error reply, or for telling whose reply this is.
[[nodiscard]] bool PeekHeader(std::span<const std::byte> frame, MessageHeader* header);

// Errors: kDataLoss (not what was sent: cut off, or the digest differs), kFailedPrecondition
// (another version of the format), kInvalidArgument (well sent, but not a message: a length beyond
// the frame, an unknown type). The output is then unspecified. Vectors of an earlier message are
// used again.
[[nodiscard]] absl::Status DecodeRequest(std::span<const std::byte> frame, Request* request);
[[nodiscard]] absl::Status DecodeReply(std::span<const std::byte> frame, Reply* reply);

// Bytes of one section.
size_t RequestSectionBytes(MessageType type, ValueDtype dtype, uint32_t dim, size_t keys);
size_t RowsSectionBytes(ValueDtype dtype, uint32_t dim, size_t rows, bool updates);
size_t CountersSectionBytes(size_t counters);
// Of a kError message, which has no sections. Texts are cut at kMaxErrorText.
inline constexpr size_t kMaxErrorText = 4096;
size_t ErrorBytes(const absl::Status& status);

// Writes one message into a buffer at a multiple of 8 whose size is exactly kMessageHeaderBytes and
// the bytes of its sections or error. The caller fills what a section method returns, then calls
// Finish. Sizes that do not add up are our own bug, and die.
class MessageWriter {
 public:
  MessageWriter(std::span<std::byte> frame, const MessageHeader& header);

  struct KeysAndValues {
    std::span<uint64_t> keys;     // [n]
    std::byte* values;            // push, put, write: [n, dim]
    std::span<uint32_t> updates;  // write: [n]
  };
  KeysAndValues AddRequestSection(uint32_t table, uint32_t dim, size_t keys, bool updates_wanted);

  struct RowsAndUpdates {
    std::byte* values;            // [rows, dim]
    std::span<uint32_t> updates;  // [rows] or empty
  };
  RowsAndUpdates AddRows(uint32_t table, uint32_t dim, size_t rows, bool updates);

  std::span<uint64_t> AddCounters(uint32_t table, size_t counters);

  // status: not OK.
  void AddError(const absl::Status& status);

  // Computes the digest. The frame is whole then.
  void Finish();

 private:
  std::byte* Take(size_t bytes);
  void AddSectionHeader(uint32_t table, uint32_t dim, size_t count, bool updates);

  const std::span<std::byte> frame_;
  const MessageHeader header_;
  size_t end_ = kMessageHeaderBytes;
  uint32_t sections_ = 0;
};

// Writes the digest of `frame` anew, for tests that change bytes. frame: kMessageHeaderBytes or
// more.
void SealFrame(std::span<std::byte> frame);

}  // namespace savior
