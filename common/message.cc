#include "common/message.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <bit>
#include <cstring>
// The library's dispatching form picks AVX2 or AVX-512 when the program starts: four times faster
// here.
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

static_assert(std::endian::native == std::endian::little, "the wire's bytes are memory's");

namespace savior {
namespace {

constexpr uint32_t kMagic = 0x4d525653;  // "SVRM"

// The header as it lies in a frame.
struct WireHeader {
  uint32_t magic;
  uint16_t version;
  uint8_t type;
  uint8_t dtype;
  uint64_t incarnation;
  uint32_t codebook_version;
  uint16_t worker;
  uint16_t parts;
  uint64_t client;
  uint64_t sequence;
  int64_t step;
  uint32_t shard;
  uint32_t sections;
  uint64_t payload_bytes;
  uint64_t digest;
};
static_assert(sizeof(WireHeader) == kMessageHeaderBytes);
constexpr size_t kDigestAt = kMessageHeaderBytes - sizeof(uint64_t);

struct WireSection {
  uint32_t table;
  uint32_t dim;
  uint32_t count;  // keys, rows, counters
  uint32_t flags;
};
static_assert(sizeof(WireSection) == 16);
constexpr uint32_t kUpdatesFlag = 1;

struct WireError {
  uint32_t code;
  uint32_t text_bytes;
};

constexpr size_t PadTo8(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

bool HasValues(MessageType type) {
  return type == MessageType::kPush || type == MessageType::kPut || type == MessageType::kWriteRows;
}
bool HasSections(MessageType type) {
  return HasValues(type) || type == MessageType::kPull || type == MessageType::kHint ||
         type == MessageType::kReadRows;
}
// Update counts that a request brings.
size_t CountsIn(MessageType type, size_t keys) {
  return type == MessageType::kWriteRows ? keys : 0;
}

// Of a whole frame but its digest: the payload's, seeded with the header's.
uint64_t DigestOf(std::span<const std::byte> frame) {
  const uint64_t header = XXH3_64bits(frame.data(), kDigestAt);
  return XXH3_64bits_withSeed(frame.data() + kMessageHeaderBytes,
                              frame.size() - kMessageHeaderBytes, header);
}

MessageHeader FromWire(const WireHeader& wire) {
  return {.type = static_cast<MessageType>(wire.type),
          .dtype = static_cast<ValueDtype>(wire.dtype),
          .incarnation = wire.incarnation,
          .codebook_version = wire.codebook_version,
          .worker = wire.worker,
          .parts = wire.parts,
          .client = wire.client,
          .sequence = wire.sequence,
          .step = wire.step,
          .shard = wire.shard};
}

bool IsKnownType(uint8_t type) {
  return (type >= static_cast<uint8_t>(MessageType::kPull) &&
          type <= static_cast<uint8_t>(MessageType::kSwitchCodebook)) ||
         (type >= static_cast<uint8_t>(MessageType::kRows) &&
          type <= static_cast<uint8_t>(MessageType::kError));
}

// Everything about a frame that does not depend on its type.
absl::Status CheckFrame(std::span<const std::byte> frame, WireHeader* wire) {
  CHECK_EQ(reinterpret_cast<uintptr_t>(frame.data()) % 8, 0u) << "frames lie at multiples of 8";
  if (frame.size() < kMessageHeaderBytes) {
    return absl::DataLossError(absl::StrCat("a message of ", frame.size(),
                                            " bytes: the header alone has ", kMessageHeaderBytes));
  }
  if (frame.size() > kMaxFrameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a message of ", frame.size(), " bytes: at most ", kMaxFrameBytes, " are taken"));
  }
  std::memcpy(wire, frame.data(), sizeof(*wire));
  if (wire->magic != kMagic) return absl::DataLossError("a message with another magic number");
  if (wire->version != kWireVersion) {
    return absl::FailedPreconditionError(absl::StrCat("a message of wire format ", wire->version,
                                                      ": this program speaks ", kWireVersion));
  }
  if (wire->payload_bytes != frame.size() - kMessageHeaderBytes) {
    return absl::DataLossError(absl::StrCat("a message of ", frame.size() - kMessageHeaderBytes,
                                            " bytes after the header, which says ",
                                            wire->payload_bytes));
  }
  if (wire->digest != DigestOf(frame)) {
    return absl::DataLossError("a message whose digest does not fit its bytes");
  }
  if (!IsKnownType(wire->type)) {
    return absl::InvalidArgumentError(absl::StrCat("message type ", wire->type));
  }
  if (wire->dtype > static_cast<uint8_t>(ValueDtype::kBfloat16)) {
    return absl::InvalidArgumentError(absl::StrCat("value type ", wire->dtype));
  }
  if (wire->sections > kMaxSections) {
    return absl::InvalidArgumentError(
        absl::StrCat(wire->sections, " tables in a message: at most ", kMaxSections));
  }
  return absl::OkStatus();
}

// Takes arrays off the front of a payload. Offsets stay multiples of 8.
class PayloadReader {
 public:
  explicit PayloadReader(std::span<const std::byte> payload) : left_(payload) {}

  // `count` values of `width` bytes, padded to 8. False if they are not there. count * width must
  // not overflow: count < 2^32, width <= 4 * kMaxWireDim.
  bool Take(uint64_t count, uint64_t width, std::span<const std::byte>* bytes) {
    const uint64_t size = count * width;
    // Two steps: padding a huge size could wrap around.
    if (size > left_.size() || PadTo8(size) > left_.size()) return false;
    *bytes = left_.first(size);
    left_ = left_.subspan(PadTo8(size));
    return true;
  }
  template <typename T>
  bool TakeArray(uint64_t count, std::span<const T>* values) {
    std::span<const std::byte> bytes;
    if (!Take(count, sizeof(T), &bytes)) return false;
    *values = {reinterpret_cast<const T*>(bytes.data()), count};
    return true;
  }
  bool empty() const { return left_.empty(); }

 private:
  std::span<const std::byte> left_;
};

absl::Status ReadSection(PayloadReader* reader, uint32_t number, WireSection* section) {
  std::span<const std::byte> bytes;
  if (!reader->Take(1, sizeof(WireSection), &bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("table section ", number, " is not there"));
  }
  std::memcpy(section, bytes.data(), sizeof(*section));
  if (section->dim > kMaxWireDim) {
    return absl::InvalidArgumentError(
        absl::StrCat("table section ", number, ": dim ", section->dim));
  }
  if ((section->flags & ~kUpdatesFlag) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("table section ", number, ": flags ", section->flags));
  }
  return absl::OkStatus();
}

absl::Status BeyondTheFrame(uint32_t number, const WireSection& section) {
  return absl::InvalidArgumentError(absl::StrCat("table section ", number, " of ", section.count,
                                                 " keys of dim ", section.dim,
                                                 " is longer than its message"));
}

absl::Status CheckEnd(const PayloadReader& reader) {
  if (reader.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("bytes after the message's last part");
}

absl::Status ReadError(PayloadReader* reader, absl::Status* error) {
  std::span<const std::byte> bytes;
  WireError wire{};
  if (!reader->Take(1, sizeof(wire), &bytes)) {
    return absl::InvalidArgumentError("an error reply without an error");
  }
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  if (wire.code == 0 || wire.code > 16 || wire.text_bytes > kMaxErrorText ||
      !reader->Take(wire.text_bytes, 1, &bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("an error reply of code ", wire.code, ", ", wire.text_bytes, " bytes"));
  }
  *error = absl::Status(static_cast<absl::StatusCode>(wire.code),
                        {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  return CheckEnd(*reader);
}

}  // namespace

bool PeekHeader(std::span<const std::byte> frame, MessageHeader* header) {
  WireHeader wire{};
  if (frame.size() < sizeof(wire)) return false;
  std::memcpy(&wire, frame.data(), sizeof(wire));
  if (wire.magic != kMagic || !IsKnownType(wire.type)) return false;
  *header = FromWire(wire);
  return true;
}

absl::Status DecodeRequest(std::span<const std::byte> frame, Request* request) {
  WireHeader wire{};
  SAVIOR_RETURN_IF_ERROR(CheckFrame(frame, &wire));
  request->header = FromWire(wire);
  request->sections.clear();
  const MessageType type = request->header.type;
  if (!IsRequest(type)) return absl::InvalidArgumentError("a reply where a request should be");
  if (!HasSections(type) && wire.sections != 0) {
    return absl::InvalidArgumentError("tables in a message that has none");
  }
  if (HasWholeRows(type) && request->header.dtype != ValueDtype::kFloat32) {
    return absl::InvalidArgumentError("whole rows of another type than float32");
  }
  PayloadReader reader(frame.subspan(kMessageHeaderBytes));
  for (uint32_t i = 0; i < wire.sections; ++i) {
    WireSection section{};
    SAVIOR_RETURN_IF_ERROR(ReadSection(&reader, i, &section));
    RequestSection& out = request->sections.emplace_back();
    out.table = section.table;
    out.dim = section.dim;
    out.updates_wanted = (section.flags & kUpdatesFlag) != 0;
    const uint64_t width =
        HasValues(type) ? uint64_t{section.dim} * WidthOf(request->header.dtype) : 0;
    if (!reader.TakeArray(section.count, &out.keys) ||
        !reader.Take(section.count, width, &out.values) ||
        !reader.TakeArray(CountsIn(type, section.count), &out.updates)) {
      return BeyondTheFrame(i, section);
    }
  }
  return CheckEnd(reader);
}

absl::Status DecodeReply(std::span<const std::byte> frame, Reply* reply) {
  WireHeader wire{};
  SAVIOR_RETURN_IF_ERROR(CheckFrame(frame, &wire));
  reply->header = FromWire(wire);
  reply->sections.clear();
  reply->error = absl::OkStatus();
  const MessageType type = reply->header.type;
  if (IsRequest(type)) return absl::InvalidArgumentError("a request where a reply should be");
  if ((type == MessageType::kDone || type == MessageType::kError) && wire.sections != 0) {
    return absl::InvalidArgumentError("tables in a message that has none");
  }
  PayloadReader reader(frame.subspan(kMessageHeaderBytes));
  if (type == MessageType::kError) return ReadError(&reader, &reply->error);
  for (uint32_t i = 0; i < wire.sections; ++i) {
    WireSection section{};
    SAVIOR_RETURN_IF_ERROR(ReadSection(&reader, i, &section));
    ReplySection& out = reply->sections.emplace_back();
    out.table = section.table;
    if (type == MessageType::kCounters) {
      if (!reader.TakeArray(section.count, &out.counters)) return BeyondTheFrame(i, section);
      continue;
    }
    out.dim = section.dim;
    out.rows = section.count;
    const uint64_t width = uint64_t{section.dim} * WidthOf(reply->header.dtype);
    const uint64_t updates = (section.flags & kUpdatesFlag) != 0 ? section.count : 0;
    if (!reader.Take(section.count, width, &out.values) ||
        !reader.TakeArray(updates, &out.updates)) {
      return BeyondTheFrame(i, section);
    }
  }
  return CheckEnd(reader);
}

size_t RequestSectionBytes(MessageType type, ValueDtype dtype, uint32_t dim, size_t keys) {
  const size_t values = HasValues(type) ? keys * dim * WidthOf(dtype) : 0;
  return sizeof(WireSection) + keys * sizeof(uint64_t) + PadTo8(values) +
         PadTo8(CountsIn(type, keys) * sizeof(uint32_t));
}

size_t RowsSectionBytes(ValueDtype dtype, uint32_t dim, size_t rows, bool updates) {
  return sizeof(WireSection) + PadTo8(rows * dim * WidthOf(dtype)) +
         (updates ? PadTo8(rows * sizeof(uint32_t)) : 0);
}

size_t CountersSectionBytes(size_t counters) {
  return sizeof(WireSection) + counters * sizeof(uint64_t);
}

MessageWriter::MessageWriter(std::span<std::byte> frame, const MessageHeader& header)
    : frame_(frame), header_(header) {
  CHECK_GE(frame.size(), kMessageHeaderBytes);
}

std::byte* MessageWriter::Take(size_t bytes) {
  const size_t padded = PadTo8(bytes);
  CHECK_LE(padded, frame_.size() - end_);
  std::byte* const start = frame_.data() + end_;
  std::fill(start + bytes, start + padded, std::byte{0});
  end_ += padded;
  return start;
}

void MessageWriter::AddSectionHeader(uint32_t table, uint32_t dim, size_t count, bool updates) {
  CHECK_LE(count, UINT32_MAX);
  const WireSection section{.table = table,
                            .dim = dim,
                            .count = static_cast<uint32_t>(count),
                            .flags = updates ? kUpdatesFlag : 0};
  std::memcpy(Take(sizeof(section)), &section, sizeof(section));
  ++sections_;
}

MessageWriter::KeysAndValues MessageWriter::AddRequestSection(uint32_t table, uint32_t dim,
                                                              size_t keys, bool updates_wanted) {
  AddSectionHeader(table, dim, keys, updates_wanted);
  auto* const at = reinterpret_cast<uint64_t*>(Take(keys * sizeof(uint64_t)));
  const size_t values = HasValues(header_.type) ? keys * dim * WidthOf(header_.dtype) : 0;
  std::byte* const values_at = Take(values);
  const size_t counts = CountsIn(header_.type, keys);
  return {{at, keys},
          values_at,
          {reinterpret_cast<uint32_t*>(Take(counts * sizeof(uint32_t))), counts}};
}

MessageWriter::RowsAndUpdates MessageWriter::AddRows(uint32_t table, uint32_t dim, size_t rows,
                                                     bool updates) {
  AddSectionHeader(table, dim, rows, updates);
  std::byte* const values = Take(rows * dim * WidthOf(header_.dtype));
  const size_t counts = updates ? rows : 0;
  return {values, {reinterpret_cast<uint32_t*>(Take(counts * sizeof(uint32_t))), counts}};
}

std::span<uint64_t> MessageWriter::AddCounters(uint32_t table, size_t counters) {
  AddSectionHeader(table, 0, counters, false);
  return {reinterpret_cast<uint64_t*>(Take(counters * sizeof(uint64_t))), counters};
}

void MessageWriter::Finish() {
  CHECK_EQ(end_, frame_.size()) << "a message's bytes do not add up";
  const WireHeader wire{.magic = kMagic,
                        .version = kWireVersion,
                        .type = static_cast<uint8_t>(header_.type),
                        .dtype = static_cast<uint8_t>(header_.dtype),
                        .incarnation = header_.incarnation,
                        .codebook_version = header_.codebook_version,
                        .worker = header_.worker,
                        .parts = header_.parts,
                        .client = header_.client,
                        .sequence = header_.sequence,
                        .step = header_.step,
                        .shard = header_.shard,
                        .sections = sections_,
                        .payload_bytes = frame_.size() - kMessageHeaderBytes,
                        .digest = 0};
  std::memcpy(frame_.data(), &wire, sizeof(wire));
  SealFrame(frame_);
}

size_t ErrorBytes(const absl::Status& status) {
  return sizeof(WireError) + PadTo8(std::min(status.message().size(), kMaxErrorText));
}

void MessageWriter::AddError(const absl::Status& status) {
  CHECK(!status.ok());
  const absl::string_view text = status.message().substr(0, kMaxErrorText);
  const WireError wire{.code = static_cast<uint32_t>(status.code()),
                       .text_bytes = static_cast<uint32_t>(text.size())};
  std::memcpy(Take(sizeof(wire)), &wire, sizeof(wire));
  std::copy(text.begin(), text.end(), reinterpret_cast<char*>(Take(text.size())));
}

void SealFrame(std::span<std::byte> frame) {
  CHECK_GE(frame.size(), kMessageHeaderBytes);
  const uint64_t digest = DigestOf(frame);
  std::memcpy(frame.data() + kDigestAt, &digest, sizeof(digest));
}

}  // namespace savior
