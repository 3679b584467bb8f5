#include "common/message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/common/message_testing.h"

namespace savior {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Offsets of fields, as docs/wire_format.md has them.
constexpr size_t kMagicAt = 0;
constexpr size_t kVersionAt = 4;
constexpr size_t kTypeAt = 6;
constexpr size_t kDtypeAt = 7;
constexpr size_t kSectionsAt = 52;
constexpr size_t kPayloadBytesAt = 56;
constexpr size_t kFirstSection = 72;
constexpr size_t kDimAt = kFirstSection + 4;
constexpr size_t kCountAt = kFirstSection + 8;
constexpr size_t kFlagsAt = kFirstSection + 12;

std::vector<float> Floats(ValueDtype dtype, std::span<const std::byte> bytes) {
  std::vector<float> values(bytes.size() / WidthOf(dtype));
  DecodeValues(dtype, bytes.data(), values);
  return values;
}

// `frame` with `value` written at `offset`, and the digest that fits.
template <typename T>
AlignedBytes With(const AlignedBytes& frame, size_t offset, T value) {
  AlignedBytes changed(frame.span());
  std::memcpy(changed.span().data() + offset, &value, sizeof(value));
  SealFrame(changed.span());
  return changed;
}

absl::Status Decode(const AlignedBytes& frame, bool is_request) {
  Request request;
  Reply reply;
  return is_request ? DecodeRequest(frame.span(), &request) : DecodeReply(frame.span(), &reply);
}

void ForEachFrame(const std::function<void(const NamedFrame&, bool is_request)>& visit) {
  for (const NamedFrame& named : AllRequests()) visit(named, true);
  for (const NamedFrame& named : AllReplies()) visit(named, false);
}

TEST(Message, RequestsComeBackAsTheyWere) {
  for (const ValueDtype dtype :
       {ValueDtype::kFloat32, ValueDtype::kFloat16, ValueDtype::kBfloat16}) {
    for (const MessageType type :
         {MessageType::kPull, MessageType::kPush, MessageType::kPut, MessageType::kHint}) {
      const AlignedBytes frame = RequestFrame(type, dtype);
      Request request;
      ASSERT_TRUE(DecodeRequest(frame.span(), &request).ok());
      EXPECT_EQ(request.header, SomeHeader(type, dtype));
      ASSERT_EQ(request.sections.size(), 2u);
      const auto& [first, second] = std::tie(request.sections[0], request.sections[1]);
      EXPECT_EQ(first.table, 0u);
      EXPECT_EQ(first.dim, 4u);
      EXPECT_EQ(first.updates_wanted, type == MessageType::kPull);
      EXPECT_THAT(first.keys, ElementsAre(100, 101, 102));
      EXPECT_EQ(second.table, 1u);
      EXPECT_THAT(second.keys, ElementsAre(UINT64_MAX));
      if (type == MessageType::kPush || type == MessageType::kPut) {
        EXPECT_THAT(Floats(dtype, first.values), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
        EXPECT_THAT(Floats(dtype, second.values), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
      } else {
        EXPECT_TRUE(first.values.empty());
      }
    }
  }
}

TEST(Message, WholeRowsComeBackWithTheirCountsAndAreFloat32) {
  const AlignedBytes write = RequestFrame(MessageType::kWriteRows);
  Request request;
  ASSERT_TRUE(DecodeRequest(write.span(), &request).ok());
  ASSERT_EQ(request.sections.size(), 2u);
  EXPECT_THAT(Floats(ValueDtype::kFloat32, request.sections[1].values),
              ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(request.sections[0].updates, ElementsAre(6, 6, 6));
  EXPECT_THAT(request.sections[1].updates, ElementsAre(6));
  const AlignedBytes read = RequestFrame(MessageType::kReadRows);  // spans point into it
  ASSERT_TRUE(DecodeRequest(read.span(), &request).ok());
  EXPECT_THAT(request.sections[0].keys, ElementsAre(100, 101, 102));
  EXPECT_TRUE(request.sections[0].values.empty() && request.sections[0].updates.empty());
  for (const ValueDtype dtype : {ValueDtype::kFloat16, ValueDtype::kBfloat16}) {
    for (const MessageType type : {MessageType::kReadRows, MessageType::kWriteRows}) {
      EXPECT_TRUE(absl::IsInvalidArgument(Decode(RequestFrame(type, dtype), true)));
    }
  }
}

TEST(Message, RepliesComeBackAsTheyWere) {
  Reply reply;
  for (const ValueDtype dtype : {ValueDtype::kFloat32, ValueDtype::kFloat16}) {
    const AlignedBytes frame = RowsFrame(dtype);
    ASSERT_TRUE(DecodeReply(frame.span(), &reply).ok());
    EXPECT_EQ(reply.header, SomeHeader(MessageType::kRows, dtype));
    ASSERT_EQ(reply.sections.size(), 2u);
    EXPECT_EQ(reply.sections[0].rows, 3u);
    EXPECT_EQ(Floats(dtype, reply.sections[0].values), std::vector<float>(12, 0.5f));
    EXPECT_THAT(reply.sections[0].updates, ElementsAre(7, 7, 7));
    EXPECT_TRUE(reply.sections[1].updates.empty());
  }
  const AlignedBytes counters = CountersFrame();
  ASSERT_TRUE(DecodeReply(counters.span(), &reply).ok());
  ASSERT_EQ(reply.sections.size(), 1u);
  EXPECT_EQ(reply.sections[0].table, 1u);
  EXPECT_THAT(reply.sections[0].counters, ElementsAre(11, 22));
  const AlignedBytes done = DoneFrame();
  ASSERT_TRUE(DecodeReply(done.span(), &reply).ok());
  EXPECT_TRUE(reply.error.ok());
}

TEST(Message, ErrorsKeepTheirCodeAndText) {
  Reply reply;
  const absl::Status statuses[] = {absl::UnavailableError("x"), absl::DataLossError(""),
                                   absl::InvalidArgumentError(std::string(2 * kMaxErrorText, 'y'))};
  for (const absl::Status& status : statuses) {
    const AlignedBytes frame = ErrorFrame(status);
    ASSERT_TRUE(DecodeReply(frame.span(), &reply).ok());
    EXPECT_EQ(reply.error.code(), status.code());
    EXPECT_EQ(reply.error.message(), status.message().substr(0, kMaxErrorText));
  }
}

TEST(Message, AMessageOfNoTablesAndOneOfNoKeysWork) {
  AlignedBytes none(kMessageHeaderBytes);
  MessageWriter(none.span(), SomeHeader(MessageType::kPush)).Finish();
  Request request;
  ASSERT_TRUE(DecodeRequest(none.span(), &request).ok());
  EXPECT_TRUE(request.sections.empty());

  AlignedBytes empty(kMessageHeaderBytes +
                     RequestSectionBytes(MessageType::kPush, ValueDtype::kFloat32, 4, 0));
  MessageWriter writer(empty.span(), SomeHeader(MessageType::kPush));
  writer.AddRequestSection(0, 4, 0, false);
  writer.Finish();
  ASSERT_TRUE(DecodeRequest(empty.span(), &request).ok());
  EXPECT_TRUE(request.sections[0].keys.empty());
}

TEST(Message, EveryTruncationIsRefused) {
  ForEachFrame([](const NamedFrame& named, bool is_request) {
    for (size_t size = 0; size < named.frame.span().size(); ++size) {
      const AlignedBytes cut(named.frame.span().first(size));
      EXPECT_TRUE(absl::IsDataLoss(Decode(cut, is_request))) << named.name << " at " << size;
    }
    AlignedBytes longer(named.frame.span().size() + 8);
    std::copy(named.frame.span().begin(), named.frame.span().end(), longer.span().begin());
    EXPECT_TRUE(absl::IsDataLoss(Decode(longer, is_request))) << named.name;
  });
}

TEST(Message, EveryFlippedBitIsRefused) {
  ForEachFrame([](const NamedFrame& named, bool is_request) {
    for (size_t at = 0; at < named.frame.span().size(); ++at) {
      for (int bit = 0; bit < 8; ++bit) {
        AlignedBytes flipped(named.frame.span());
        flipped.span()[at] ^= std::byte{1} << bit;
        EXPECT_FALSE(Decode(flipped, is_request).ok()) << named.name << " at " << at;
      }
    }
  });
}

// Whoever can write a digest can write anything: then lengths are all that stands in the way.
TEST(Message, EveryByteWithAFittingDigestIsReadWithinTheFrameOrRefused) {
  const auto within = [](const AlignedBytes& frame, const void* data, size_t bytes) {
    const auto* const begin = static_cast<const std::byte*>(data);
    EXPECT_TRUE(bytes == 0 || (begin >= frame.span().data() &&
                               begin + bytes <= frame.span().data() + frame.span().size()));
  };
  ForEachFrame([&](const NamedFrame& named, bool is_request) {
    for (size_t at = 0; at < named.frame.span().size(); ++at) {
      for (int value = 0; value < 256; ++value) {
        const AlignedBytes changed = With(named.frame, at, static_cast<uint8_t>(value));
        Request request;
        Reply reply;
        if (is_request && DecodeRequest(changed.span(), &request).ok()) {
          for (const RequestSection& s : request.sections) {
            within(changed, s.keys.data(), s.keys.size_bytes());
            within(changed, s.values.data(), s.values.size());
            within(changed, s.updates.data(), s.updates.size_bytes());
          }
        }
        if (!is_request && DecodeReply(changed.span(), &reply).ok()) {
          for (const ReplySection& s : reply.sections) {
            within(changed, s.values.data(), s.values.size());
            within(changed, s.updates.data(), s.updates.size_bytes());
            within(changed, s.counters.data(), s.counters.size_bytes());
          }
        }
      }
    }
  });
}

TEST(Message, HugeCountsAndWidthsAreRefused) {
  const AlignedBytes push = RequestFrame(MessageType::kPush);
  const AlignedBytes rows = RowsFrame();
  for (const uint32_t count : {4u, 1u << 20, 1u << 31, UINT32_MAX}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(push, kCountAt, count), true)));
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(rows, kCountAt, count), false)));
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(CountersFrame(), kCountAt, count), false)));
    const AlignedBytes wide = With(push, kDimAt, kMaxWireDim);
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(wide, kCountAt, count), true)));
  }
  for (const uint32_t dim : {8u, kMaxWireDim, kMaxWireDim + 1, UINT32_MAX}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(push, kDimAt, dim), true)));
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(rows, kDimAt, dim), false)));
  }
  for (const uint32_t sections : {3u, kMaxSections, kMaxSections + 1, UINT32_MAX}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(push, kSectionsAt, sections), true)));
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(rows, kSectionsAt, sections), false)));
  }
  const AlignedBytes error = ErrorFrame(absl::DataLossError("12345678"));
  for (const uint32_t length : {9u, 100u, UINT32_MAX}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(error, kFirstSection + 4, length), false)));
  }
}

TEST(Message, AFrameBeyondTheBoundIsRefused) {
  const AlignedBytes huge(kMaxFrameBytes + 8);
  EXPECT_TRUE(absl::IsInvalidArgument(Decode(huge, true)));
  EXPECT_TRUE(absl::IsInvalidArgument(Decode(huge, false)));
}

TEST(Message, WhatIsNotAMessageIsRefusedByItsKind) {
  const AlignedBytes pull = RequestFrame(MessageType::kPull);
  EXPECT_TRUE(absl::IsDataLoss(Decode(With(pull, kMagicAt, uint32_t{1}), true)));
  EXPECT_TRUE(absl::IsDataLoss(Decode(With(pull, kPayloadBytesAt, UINT64_MAX), true)));
  const absl::Status version = Decode(With(pull, kVersionAt, uint16_t{kWireVersion + 1}), true);
  EXPECT_TRUE(absl::IsFailedPrecondition(version));
  EXPECT_THAT(version.message(), HasSubstr(std::to_string(kWireVersion + 1)));
  for (const uint8_t type : {0, 8, 11, 12, 63, 64, 69, 255}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(pull, kTypeAt, type), true)));
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(pull, kDtypeAt, uint8_t{3}), true)));
  EXPECT_TRUE(absl::IsInvalidArgument(Decode(With(pull, kFlagsAt, uint32_t{2}), true)));
  EXPECT_TRUE(absl::IsInvalidArgument(Decode(RowsFrame(), true)));
  EXPECT_TRUE(absl::IsInvalidArgument(Decode(pull, false)));
}

TEST(Message, TheHeaderOfADamagedFrameCanBeLookedAt) {
  AlignedBytes frame = RequestFrame(MessageType::kPush);
  frame.span()[kFirstSection] ^= std::byte{1};
  MessageHeader header;
  ASSERT_TRUE(PeekHeader(frame.span(), &header));
  EXPECT_EQ(header, SomeHeader(MessageType::kPush));
  EXPECT_FALSE(PeekHeader(frame.span().first(kMessageHeaderBytes - 1), &header));
  EXPECT_FALSE(PeekHeader({}, &header));
}

}  // namespace
}  // namespace savior
