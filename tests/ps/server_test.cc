#include "ps/server.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>

#include "tests/faults/figure.h"
#include "tests/ps/server_testing.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

// The least value that `share` of all do not exceed. There are some.
double Percentile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  const auto place = static_cast<size_t>(share * static_cast<double>(values.size()));
  return values[std::min(values.size() - 1, place)];
}

TEST_F(ServerTest, ServesBesideUsersInTheProcess) {
  const std::vector<uint64_t> keys = KeysOf(0, 2);
  const std::vector<float> ones(8, 1.0f);
  ASSERT_TRUE(PushRows(*store_, 0, 0, keys, ones).ok());
  EXPECT_EQ(Ask(RequestOf(Header(MessageType::kPush), {{0, 4, keys, ones}})).header.type,
            MessageType::kDone);
  EXPECT_EQ(PullRows(*store_, 0, keys).rows, std::vector<float>(8, -2.0f));
  const Reply& reply = Ask(RequestOf(Header(MessageType::kPull), {{0, 4, keys}}));
  ASSERT_EQ(reply.sections.size(), 1u);
  std::vector<float> rows(8);
  DecodeValues(ValueDtype::kFloat32, reply.sections[0].values.data(), rows);
  EXPECT_EQ(rows, std::vector<float>(8, -2.0f));
}

TEST_F(ServerTest, RequestsThatDoNotFitTheTablesAreRefusedByNameAndChangeNothing) {
  const std::vector<uint64_t> mine = KeysOf(0, 2);
  const std::vector<uint64_t> content = KeysOf(0, 2, 1);
  const std::vector<float> values(8, 1.0f);
  const auto refused = [&](MessageType type, const Section& section, const std::string& name) {
    const absl::Status status = Error(RequestOf(Header(type), {section}));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(name));
  };
  const std::vector<uint64_t> theirs = KeysOf(1, 1);
  for (const MessageType type : {MessageType::kPull, MessageType::kPush}) {
    const bool push = type == MessageType::kPush;
    const auto of = [&](size_t n) {
      return push ? std::vector<float>(n, 1.0f) : std::vector<float>();
    };
    refused(type, {2, 4, mine, of(8)}, "table number 2");
    refused(type, {UINT32_MAX, 4, mine, of(8)}, "table number");
    refused(type, {0, 8, mine, of(16)}, "table learned: rows of dim 8");
    refused(type, {0, 0, mine, {}}, "table learned: rows of dim 0");
    refused(type, {0, 4, {mine[0], theirs[0]}, of(8)}, "not a key of shard 0");
    refused(type, {0, 4, {mine[0], mine[0]}, of(8)}, "twice");
  }
  refused(MessageType::kPush, {1, 4, content, values}, "table content is frozen");
  refused(MessageType::kPut, {0, 4, mine, values}, "table learned is learned");
  std::vector<float> bad = values;
  bad[5] = std::numeric_limits<float>::quiet_NaN();
  refused(MessageType::kPush, {0, 4, mine, bad}, "table learned, key " + std::to_string(mine[1]));
  bad[5] = 70000;
  refused(MessageType::kPut, {1, 4, content, bad}, "table content, key");
  MessageHeader negative = Header(MessageType::kPush);
  negative.step = -1;
  EXPECT_TRUE(absl::IsInvalidArgument(Error(RequestOf(negative, {{0, 4, mine, values}}))));
  MessageHeader unnumbered = Header(MessageType::kPush);
  unnumbered.sequence = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(Error(RequestOf(unnumbered, {{0, 4, mine, values}}))));
  EXPECT_EQ(Rows(), 0u);
  ExpectServing();
}

TEST_F(ServerTest, WholeRowsThatDoNotFitTheTablesAreRefusedByName) {
  const std::vector<uint64_t> mine = KeysOf(0, 2), content = KeysOf(0, 2, 1);
  const auto refused = [&](MessageType type, const Section& section, const std::string& name) {
    const absl::Status status = Error(RequestOf(Header(type), {section}));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(name));
  };
  for (const MessageType type : {MessageType::kReadRows, MessageType::kWriteRows}) {
    const bool write = type == MessageType::kWriteRows;
    const auto of = [&](uint32_t table, uint32_t dim, const std::vector<uint64_t>& keys) {
      Section section{.table = table, .dim = dim, .keys = keys};
      if (write) section.values.assign(dim * keys.size(), 1.0f);
      if (write) section.updates.assign(keys.size(), 1);
      return section;
    };
    refused(type, of(2, 4, mine), "table number 2");
    refused(type, of(1, 4, content), "content is frozen");
    refused(type, of(0, 8, mine), "table learned: rows of dim 8");
    refused(type, of(0, 4, {mine[0], KeysOf(1, 1)[0]}), "not a key of shard 0");
    refused(type, of(0, 4, {mine[0], mine[0]}), "twice");
  }
  const std::string second = "table learned, key " + std::to_string(mine[1]);
  std::vector<float> values(8, 1.0f);
  refused(MessageType::kWriteRows, {0, 4, mine, values, {1, 0}}, second);
  MessageHeader negative = Header(MessageType::kWriteRows);
  negative.step = -1;
  EXPECT_TRUE(absl::IsInvalidArgument(Error(RequestOf(negative, {{0, 4, mine, values, {1, 1}}}))));
  values[5] = std::numeric_limits<float>::infinity();
  refused(MessageType::kWriteRows, {0, 4, mine, values, {1, 1}}, second);
  EXPECT_EQ(Rows(), 0u);
}

TEST_F(ServerTest, AWriteThatComesTwiceIsAppliedOnce) {
  const std::vector<uint64_t> keys = KeysOf(0, 1);
  const AlignedBytes write =
      RequestOf(Header(MessageType::kWriteRows), {{0, 4, keys, {1, 2, 3, 4}, {6}}});
  EXPECT_TRUE(Error(write).ok());
  EXPECT_TRUE(Error(RequestOf(Header(MessageType::kPush), {{0, 4, keys, {1, 1, 1, 1}}})).ok());
  EXPECT_TRUE(Error(write).ok());
  EXPECT_EQ(ReadWhole(*store_, 0, keys), (Pulled{{0, 1, 2, 3}, {7}}));
}

TEST_F(ServerTest, OneBadTableOfAPushRefusesAllOfIt) {
  const std::vector<float> values(4, 1.0f);
  const Section good{0, 4, KeysOf(0, 1), values};
  const Section bad{1, 4, KeysOf(0, 1, 1), values};
  EXPECT_FALSE(Error(RequestOf(Header(MessageType::kPush), {good, bad})).ok());
  EXPECT_EQ(Rows(), 0u);
}

TEST_F(ServerTest, AnotherIncarnationCodebookVersionOrShardIsRefusedNamingBoth) {
  const auto refused = [&](const MessageHeader& header, const std::string& theirs,
                           const std::string& ours) {
    const absl::Status status = Error(RequestOf(header, {{0, 4, KeysOf(0, 1), {1, 1, 1, 1}}}));
    EXPECT_THAT(status.message(), HasSubstr(theirs));
    EXPECT_THAT(status.message(), HasSubstr(ours));
    return status;
  };
  MessageHeader header = Header(MessageType::kPush);
  header.incarnation = 6;
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(header, "incarnation 6", "incarnation 7")));
  header = Header(MessageType::kPush);
  header.codebook_version = 4;
  EXPECT_TRUE(absl::IsFailedPrecondition(refused(header, "version 4", "version 3")));
  header = Header(MessageType::kPush);
  header.shard = 1;
  EXPECT_TRUE(absl::IsInvalidArgument(refused(header, "shard 1", "shard 0")));
  EXPECT_EQ(Rows(), 0u);
  ExpectServing();
}

TEST_F(ServerTest, DamagedFramesGetATypedErrorOrNone) {
  const AlignedBytes good =
      RequestOf(Header(MessageType::kPush), {{0, 4, KeysOf(0, 2), std::vector<float>(8, 1.0f)}});
  AlignedBytes damaged(good.span());
  damaged.span()[100] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(Error(damaged)));
  EXPECT_TRUE(absl::IsDataLoss(Error(AlignedBytes(good.span().first(96)))));
  AlignedBytes version(good.span());
  version.span()[4] = std::byte{9};
  SealFrame(version.span());
  EXPECT_TRUE(absl::IsFailedPrecondition(Error(version)));
  // No header, no reply.
  Send({});
  Send(good.span().first(40));
  Send(std::vector<std::byte>(1000, std::byte{0x55}));
  Send(RowsFrame().span());  // a reply
  EXPECT_EQ(Rows(), 0u);
  ExpectServing();
}

TEST_F(ServerTest, APullWhoseReplyWouldBeTooLargeIsRefused) {
  const AlignedBytes frame =
      RequestOf(Header(MessageType::kPull), {{0, 4, KeysOf(0, kMaxFrameBytes / 16)}});
  const absl::Status status = Error(frame);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("fewer keys"));
  ExpectServing();
}

TEST_F(ServerTest, APushThatComesTwiceIsAppliedOnceAndAnsweredTwice) {
  const std::vector<uint64_t> keys = KeysOf(0, 1);
  const AlignedBytes push = RequestOf(Header(MessageType::kPush), {{0, 4, keys, {1, 2, 3, 4}}});
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Ask(push).header.type, MessageType::kDone);
  EXPECT_EQ(PullRows(*store_, 0, keys).rows, (std::vector<float>{-1, -2, -3, -4}));
  EXPECT_EQ(PullRows(*store_, 0, keys).updates, std::vector<uint32_t>{1});
  // Another client's numbers are its own.
  MessageHeader other = Header(MessageType::kPush);
  other.client = 2;
  other.sequence = 1;
  EXPECT_EQ(Ask(RequestOf(other, {{0, 4, keys, {1, 2, 3, 4}}})).header.type, MessageType::kDone);
  EXPECT_EQ(PullRows(*store_, 0, keys).updates, std::vector<uint32_t>{2});
}

TEST_F(ServerTest, APushTooOldToTellIsRefused) {
  const std::vector<uint64_t> keys = KeysOf(0, 1);
  const AlignedBytes old = RequestOf(Header(MessageType::kPush), {{0, 4, keys, {1, 2, 3, 4}}});
  EXPECT_TRUE(Ask(old).error.ok());
  sequence_ += 100;
  EXPECT_TRUE(Error(RequestOf(Header(MessageType::kPush), {{0, 4, keys, {1, 2, 3, 4}}})).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Error(old)));
  EXPECT_EQ(PullRows(*store_, 0, keys).updates, std::vector<uint32_t>{2});
}

TEST_F(ServerTest, HintsAreTakenWithoutAReply) {
  Send(RequestOf(Header(MessageType::kHint), {{0, 4, KeysOf(0, 5)}}).span());
  Send(RequestOf(Header(MessageType::kHint), {{9, 4, {1}}}).span());  // no such table
  Send(RequestOf(Header(MessageType::kCancelHints), {}).span());
  ExpectServing();  // the next reply is the next request's
  EXPECT_EQ(Rows(), 0u);
}

// Row malformed_frames of docs/reliability.md: the shard's socket.
TEST_F(ServerTest, TenThousandMutatedFramesLeaveItServing) {
  constexpr uint64_t kSeed = 4;
  constexpr int kFrames = 10'000;
  std::vector<AlignedBytes> frames;
  const std::vector<uint64_t> keys = KeysOf(0, 8);
  const std::vector<float> values(32, 1.0f);
  frames.push_back(RequestOf(Header(MessageType::kPull), {{0, 4, keys}}));
  frames.push_back(RequestOf(Header(MessageType::kPush), {{0, 4, keys, values}}));
  frames.push_back(RequestOf(Header(MessageType::kPut), {{1, 4, KeysOf(0, 8, 1), values}}));
  frames.push_back(RequestOf(Header(MessageType::kStats), {}));
  std::atomic<int> sent = 0;
  std::jthread attacker([&](const std::stop_token& stop) {
    auto dealer = DealerSocket::Connect(&context_, server_->endpoints()[0], {});
    ASSERT_TRUE(dealer.ok());
    Random random(kSeed);
    Request request;
    Frame ignored;
    while (sent < kFrames && !stop.stop_requested()) {
      AlignedBytes bad = frames[random.Below(frames.size())];
      for (uint64_t change = random.Below(4); change < 4; ++change) {
        bad.span()[random.Below(bad.span().size())] = static_cast<std::byte>(random.Below(256));
      }
      if (random.Below(2) == 0) SealFrame(bad.span());
      // That would be obeyed: whoever can write a digest can write anything.
      if (DecodeRequest(bad.span(), &request).ok() &&
          request.header.type == MessageType::kSwitchCodebook) {
        continue;
      }
      Frame frame = context_.NewFrame(bad.span().size());
      std::ranges::copy(bad.span(), frame.bytes().begin());
      while (!(*dealer)->Send(frame.Share()) && !stop.stop_requested()) {
        while ((*dealer)->Receive(&ignored)) {
        }
      }
      ++sent;
    }
  });
  // Somebody else, meanwhile and after it.
  const auto latencies = [&](auto more) {
    std::vector<double> ms;
    do {
      const auto began = SteadyClock::now();
      ExpectServing();
      ms.push_back(1e3 * SecondsSince(began));
    } while (more(ms.size()) && !HasFailure());
    return ms;
  };
  const std::vector<double> during = latencies([&](size_t) { return sent < kFrames; });
  attacker.join();
  EXPECT_EQ(sent, kFrames);
  const std::vector<double> alone = latencies([&](size_t n) { return n < during.size(); });
  PrintFigure("malformed_frames",
              absl::StrCat("shard: ", kFrames, " mutated requests, ", during.size(),
                           " legitimate pulls meanwhile served, p99 ", Percentile(during, 0.99),
                           " ms, ", Percentile(alone, 0.99), " ms alone (seed ", kSeed, ")"));
}

// Rows stale_incarnation and stale_version of docs/reliability.md: everything that a former server
// took is sent again to the next one, which has the same rows, in another order.
TEST_F(ServerTest, ReplayedMessagesOfAFormerIncarnationOrVersionAreAllRejected) {
  constexpr uint64_t kSeed = 5;
  constexpr int kMessages = 1000;
  Random random(kSeed);
  const std::vector<uint64_t> keys = KeysOf(0, 40), content = KeysOf(0, 40, 1);
  std::vector<AlignedBytes> recorded;
  for (int i = 0; i < kMessages; ++i) {
    constexpr MessageType kTypes[] = {MessageType::kPull, MessageType::kPush, MessageType::kPut,
                                      MessageType::kStats};
    const MessageType type = kTypes[random.Below(4)];
    const uint32_t table = type == MessageType::kPut ? 1 : 0;
    Section section{table, 4, {(table == 0 ? keys : content)[random.Below(40)]}, {}};
    if (type == MessageType::kPush || type == MessageType::kPut) {
      section.values = RandomFloats(4, &random);
    }
    const auto sections =
        type == MessageType::kStats ? std::vector<Section>{} : std::vector<Section>{section};
    recorded.push_back(RequestOf(Header(type), sections));
    EXPECT_TRUE(Ask(recorded.back()).error.ok());
  }
  const auto learned = [&] {
    return std::pair(PullRows(*store_, 0, keys), PullRows(*store_, 1, content));
  };
  const auto before = learned();
  for (const bool version : {false, true}) {
    SCOPED_TRACE(version);
    Serve(version ? ServerOptions{.codebook_version = kCodebookVersion + 1}
                  : ServerOptions{.incarnation = kIncarnation + 1});
    int rejected = 0;
    for (size_t left = recorded.size(); left > 0; --left) {
      std::swap(recorded[random.Below(left)], recorded[left - 1]);
      rejected += absl::IsFailedPrecondition(Error(recorded[left - 1]));
    }
    const bool unchanged = learned() == before;
    EXPECT_EQ(rejected, kMessages);
    EXPECT_TRUE(unchanged);
    PrintFigure(version ? "stale_version" : "stale_incarnation",
                absl::StrCat(kMessages, " recorded messages replayed, ", rejected, " rejected, ",
                             unchanged ? "no row" : "ROWS", " changed (seed ", kSeed, ")"));
  }
}

// What a clock puts by until its step has come is checked before: a damaged frame does not wait in
// place of the whole one that follows it, nor what is refused in the end anyway.
TEST_F(ServerTest, OnlyWhatIsWholeAndOfThisRunWaitsForItsStep) {
  ServeSteps(StepRules{.workers = 2});
  MessageHeader header = Header(MessageType::kPull);
  header.step = 1;
  const AlignedBytes pull = RequestOf(header, {{.table = 0, .keys = KeysOf(0, 3)}});
  AlignedBytes damaged = pull;
  damaged.span()[kMessageHeaderBytes + 20] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(Error(damaged)));
  MessageHeader other = Header(MessageType::kPull);
  other.step = 1;
  other.codebook_version = kCodebookVersion + 1;
  EXPECT_TRUE(absl::IsFailedPrecondition(Error(RequestOf(other, {}))));

  Send(pull.span());
  for (const uint16_t worker : {uint16_t{0}, uint16_t{1}}) {
    MessageHeader push = Header(MessageType::kPush);
    push.worker = worker;
    push.parts = 1;
    push.step = 0;
    EXPECT_EQ(Ask(RequestOf(push, {})).header.type, MessageType::kDone);
  }
  const Reply& rows = Receive();
  EXPECT_EQ(rows.header.type, MessageType::kRows) << rows.error;
  EXPECT_EQ(rows.header.sequence, header.sequence);
}

TEST_F(ServerTest, StepsThatNoWorkerCanBeAtDoNotWait) {
  ServeSteps(StepRules{.workers = 2, .staleness = 3});
  for (const MessageType type : {MessageType::kPull, MessageType::kCheckpoint}) {
    for (const int64_t step : {int64_t{68}, std::numeric_limits<int64_t>::max()}) {
      MessageHeader header = Header(type);
      header.step = step;
      const absl::Status error = Error(RequestOf(header, {}));
      EXPECT_TRUE(absl::IsFailedPrecondition(error)) << step << ": " << error;
    }
  }
  MessageHeader past = Header(MessageType::kPull);
  past.step = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(Ask(RequestOf(past, {})).header.type, MessageType::kRows);
}

TEST_F(ServerTest, TheStoreGoesOnWithoutItsServer) {
  server_.reset();
  const std::vector<uint64_t> keys = KeysOf(0, 2);
  EXPECT_TRUE(PushRows(*store_, 0, 0, keys, std::vector<float>(8, 1.0f)).ok());
  EXPECT_EQ(Rows(), 2u);
}

TEST_F(ServerTest, AStoppedStoreCannotBeServedAndMayStopFirst) {
  store_->Stop();
  server_.reset();
  const auto server = Server::Start(&store_->host(), &context_, {.endpoint = "tcp://127.0.0.1:0"});
  EXPECT_TRUE(absl::IsUnavailable(server.status())) << server.status();
}

TEST_F(ServerTest, AnAddressThatCannotBeHadIsNamed) {
  const auto taken =
      Server::Start(&store_->host(), &context_, {.endpoint = server_->endpoints()[0]});
  EXPECT_TRUE(absl::IsFailedPrecondition(taken.status())) << taken.status();
  const auto plain = Server::Start(&store_->host(), &context_, {.endpoint = "tcp://*:0"});
  EXPECT_TRUE(absl::IsInvalidArgument(plain.status())) << plain.status();
  EXPECT_THAT(plain.status().message(), HasSubstr("shard 0: tcp://*:0"));
}

}  // namespace
}  // namespace savior
