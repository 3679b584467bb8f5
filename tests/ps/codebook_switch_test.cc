// A switch of the codebook's version, as a shard sees it: what is sent under the old version, or
// waits, or comes twice.
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/faults/figure.h"
#include "tests/ps/server_testing.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kNext = kCodebookVersion + 1;

class CodebookSwitch : public ServerTest {
 protected:
  // To `version`, by a client that believes in `from`.
  AlignedBytes Switch(int64_t version, uint32_t from = kCodebookVersion) {
    MessageHeader header = Header(MessageType::kSwitchCodebook);
    header.codebook_version = from;
    header.step = version;
    return RequestOf(header, {});
  }
  AlignedBytes Pull(uint32_t version) {
    MessageHeader header = Header(MessageType::kPull);
    header.codebook_version = version;
    return RequestOf(header, {{.table = 0, .keys = KeysOf(0, 3)}});
  }
  bool Serves(uint32_t version) { return Ask(Pull(version)).error.ok(); }
  void ExpectDone(const AlignedBytes& request) {
    const Reply& reply = Ask(request);
    EXPECT_EQ(reply.header.type, MessageType::kDone) << reply.error;
  }
  void ExpectRefused(const AlignedBytes& request, const std::string& theirs,
                     const std::string& ours) {
    const absl::Status status = Error(request);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(theirs));
    EXPECT_THAT(status.message(), HasSubstr(ours));
  }
};

TEST_F(CodebookSwitch, ServesTheNewVersionOnly) {
  EXPECT_TRUE(Serves(kCodebookVersion));
  EXPECT_FALSE(Serves(kNext));
  ExpectDone(Switch(kNext));
  ExpectRefused(Pull(kCodebookVersion), "version 3", "version 4");
  EXPECT_TRUE(Serves(kNext));
  // Back, and anywhere: the caller decides.
  ExpectDone(Switch(kCodebookVersion, kNext));
  EXPECT_TRUE(Serves(kCodebookVersion));
  ExpectDone(Switch(77));
  EXPECT_TRUE(Serves(77));
}

TEST_F(CodebookSwitch, ARepeatedOneIsDoneAndALateOneDoesNothing) {
  ExpectDone(Switch(kCodebookVersion));  // to the version served
  EXPECT_TRUE(Serves(kCodebookVersion));
  const AlignedBytes first = Switch(kNext);
  ExpectDone(first);
  ExpectDone(first);
  ExpectDone(Switch(kNext));         // its reply was lost, and its caller came again
  ExpectDone(Switch(kNext, kNext));  // another caller
  EXPECT_TRUE(Serves(kNext));
  ExpectDone(Switch(kCodebookVersion, kNext));
  // Delayed by the network until all have gone back.
  ExpectDone(first);
  EXPECT_TRUE(Serves(kCodebookVersion));
}

// Its client has given it up and gone back, and then it comes.
TEST_F(CodebookSwitch, OneThatIsOvertakenDoesNothing) {
  const AlignedBytes up = Switch(kNext), back = Switch(kCodebookVersion, kNext);
  ExpectDone(back);
  EXPECT_TRUE(absl::IsFailedPrecondition(Error(up)));
  EXPECT_TRUE(Serves(kCodebookVersion));
  ExpectDone(Switch(kNext));
  EXPECT_TRUE(Serves(kNext));
}

TEST_F(CodebookSwitch, FromAVersionThatIsNotServedIsRefusedNamingBoth) {
  ExpectRefused(Switch(9, 5), "version 5", "version 3");
  for (const int64_t version : {int64_t{-1}, int64_t{1} << 32}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Error(Switch(version))));
  }
  MessageHeader header = Header(MessageType::kSwitchCodebook);
  header.incarnation = kIncarnation + 1;
  EXPECT_TRUE(absl::IsFailedPrecondition(Error(RequestOf(header, {}))));
  EXPECT_TRUE(Serves(kCodebookVersion));
}

// Row stale_version of docs/reliability.md, in a shard that goes on: whatever it has been asked
// under the old version is asked again, in another order.
TEST_F(CodebookSwitch, ReplayedRequestsOfTheOldVersionAreAllRejected) {
  constexpr int kRequests = 1000;
  Random random(5);
  const std::vector<uint64_t> keys = KeysOf(0, 40), content = KeysOf(0, 40, 1);
  std::vector<AlignedBytes> recorded;
  std::map<MessageType, int> asked;
  for (int i = 0; i < kRequests; ++i) {
    constexpr MessageType kTypes[] = {MessageType::kPull,     MessageType::kPush,
                                      MessageType::kPut,      MessageType::kStats,
                                      MessageType::kReadRows, MessageType::kWriteRows};
    const MessageType type = kTypes[random.Below(6)];
    ++asked[type];
    const uint32_t table = type == MessageType::kPut ? 1 : 0;
    Section section{.table = table, .keys = {(table == 0 ? keys : content)[random.Below(40)]}};
    if (type == MessageType::kWriteRows) section.updates = {3};
    if (type != MessageType::kPull && type != MessageType::kReadRows) {
      section.values = RandomFloats(4, &random);
    }
    const bool none = type == MessageType::kStats;
    recorded.push_back(
        RequestOf(Header(type), none ? std::vector<Section>{} : std::vector<Section>{section}));
    const absl::Status status = Error(recorded.back());
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(asked.size(), 6u);
  const auto learned = [&] {
    return std::pair(ReadWhole(*store_, 0, keys), PullRows(*store_, 1, content));
  };
  const auto before = learned();
  ExpectDone(Switch(kNext));
  int rejected = 0;
  for (size_t left = recorded.size(); left > 0; --left) {
    std::swap(recorded[random.Below(left)], recorded[left - 1]);
    rejected += absl::IsFailedPrecondition(Error(recorded[left - 1]));
  }
  const bool unchanged = learned() == before;
  EXPECT_EQ(rejected, kRequests);
  EXPECT_TRUE(unchanged);
  EXPECT_TRUE(Serves(kNext));
  PrintFigure("stale_version", absl::StrCat("a shard that has switched: ", kRequests,
                                            " requests replayed, ", rejected, " rejected, ",
                                            unchanged ? "no row" : "ROWS", " changed (seed 5)"));
}

// Under another version, too: of an old push only the sequence number would tell.
TEST_F(CodebookSwitch, ALatePushChangesNothing) {
  const std::vector<uint64_t> keys = KeysOf(0, 1);
  const AlignedBytes late = RequestOf(Header(MessageType::kPush), {{0, 4, keys, {1, 2, 3, 4}}});
  ExpectDone(Switch(kNext));
  ExpectRefused(late, "version 3", "version 4");
  EXPECT_EQ(Rows(), 0u);
  // What is refused is not remembered as applied: under its own version it may come again.
  ExpectDone(Switch(kCodebookVersion, kNext));
  ExpectDone(late);
  EXPECT_EQ(PullRows(*store_, 0, keys).updates, std::vector<uint32_t>{1});
}

TEST_F(CodebookSwitch, WhatWaitsForItsStepIsAnsweredStale) {
  ServeSteps(StepRules{.workers = 2});
  // Of step 1 each, which waits for the pushes of step 0.
  std::map<uint64_t, MessageType> waiting;
  for (const MessageType type :
       {MessageType::kPull, MessageType::kCheckpoint, MessageType::kPush}) {
    MessageHeader header = Header(type);
    header.step = 1;
    header.parts = 1;
    waiting[header.sequence] = type;
    Send(RequestOf(header, {}).span());
  }
  Send(Switch(kNext).span());
  for (int i = 0; i < 3; ++i) {
    const Reply& reply = Receive();
    EXPECT_EQ(waiting.erase(reply.header.sequence), 1u);
    EXPECT_TRUE(absl::IsFailedPrecondition(reply.error)) << reply.error;
    EXPECT_THAT(reply.error.message(), HasSubstr("version 3: this shard has version 4"));
  }
  EXPECT_EQ(Receive().header.type, MessageType::kDone);
  // A pull of the new version waits, and is served when all have pushed under it.
  MessageHeader pull = Header(MessageType::kPull);
  pull.codebook_version = kNext;
  pull.step = 1;
  Send(RequestOf(pull, {{.table = 0, .keys = KeysOf(0, 3)}}).span());
  for (const uint16_t worker : {uint16_t{0}, uint16_t{1}}) {
    MessageHeader push = Header(MessageType::kPush);
    push.codebook_version = kNext;
    push.worker = worker;
    push.parts = 1;
    push.step = 0;
    ExpectDone(RequestOf(push, {}));
  }
  const Reply& rows = Receive();
  EXPECT_EQ(rows.header.type, MessageType::kRows) << rows.error;
  EXPECT_EQ(rows.header.sequence, pull.sequence);
}

// Gradients of two versions are never added up.
TEST_F(CodebookSwitch, IsRefusedWhileAStepIsPushedByHalf) {
  ServeSteps(StepRules{.workers = 2});
  const auto push = [&](uint16_t worker) {
    MessageHeader header = Header(MessageType::kPush);
    header.worker = worker;
    header.parts = 1;
    header.step = 0;
    return RequestOf(header, {{0, 4, KeysOf(0, 1), {1, 1, 1, 1}}});
  };
  ExpectDone(push(0));
  ExpectRefused(Switch(kNext), "step 0", "worker 1 has not");
  EXPECT_TRUE(Ask(push(1)).error.ok());
  EXPECT_EQ(PullRows(*store_, 0, KeysOf(0, 1)).rows, std::vector<float>(4, -2));
  ExpectDone(Switch(kNext));
}

}  // namespace
}  // namespace savior
