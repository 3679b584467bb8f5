// A server of two shards, and a client that may send anything to the first one.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/routing.h"
#include "ps/local_store.h"
#include "ps/server.h"
#include "tests/common/message_testing.h"
#include "tests/common/temp_folder.h"
#include "tests/ps/store_testing.h"

namespace savior {

inline constexpr uint64_t kIncarnation = 7;
inline constexpr uint32_t kCodebookVersion = 3;
inline constexpr uint32_t kShards = 2;

// Part of a request; values: empty, or [keys, dim].
struct Section {
  uint32_t table = 0;
  uint32_t dim = 4;
  std::vector<uint64_t> keys;
  std::vector<float> values = {};
  std::vector<uint32_t> updates = {};  // of a write
};

inline AlignedBytes RequestOf(const MessageHeader& header, const std::vector<Section>& sections) {
  size_t bytes = kMessageHeaderBytes;
  for (const Section& s : sections) {
    bytes += RequestSectionBytes(header.type, header.dtype, s.dim, s.keys.size());
  }
  AlignedBytes frame(bytes);
  MessageWriter writer(frame.span(), header);
  for (const Section& s : sections) {
    const auto out = writer.AddRequestSection(s.table, s.dim, s.keys.size(), false);
    std::copy(s.keys.begin(), s.keys.end(), out.keys.begin());
    if (!s.values.empty()) EncodeValues(header.dtype, s.values, out.values);
    std::copy(s.updates.begin(), s.updates.end(), out.updates.begin());
  }
  writer.Finish();
  return frame;
}

// Tables "learned" and "content" in two shards, and a client that may send anything to shard 0.
class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    auto store =
        LocalStore::Open({.tables = {AlignSpec("learned", 4, Optimizer(OptimizerKind::kSgd, 1)),
                                     FrozenTable("content", 4, StoreDtype::kFloat16)},
                          .shards = kShards,
                          .ram_budget_bytes = 16 << 20,
                          .folder = folder_ / "live"});
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ServeSteps(std::nullopt);
  }

  void ServeSteps(std::optional<StepRules> steps) { Serve({.steps = steps}); }
  void Serve(ServerOptions options) {
    server_.reset();
    options.endpoint = "tcp://127.0.0.1:0";
    if (options.incarnation == 0) options.incarnation = kIncarnation;
    if (options.codebook_version == 0) options.codebook_version = kCodebookVersion;
    auto server = Server::Start(&store_->host(), &context_, options);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto dealer = DealerSocket::Connect(&context_, server_->endpoints()[0], {});
    EXPECT_TRUE(dealer.ok()) << dealer.status();
    dealer_ = *std::move(dealer);
  }

  // `n` keys of a table that shard `shard` has.
  static std::vector<uint64_t> KeysOf(uint32_t shard, size_t n, uint32_t table = 0) {
    const std::vector<uint32_t> map = EvenBucketMap(kShards);
    std::vector<uint64_t> keys;
    for (uint64_t key = 0; keys.size() < n; ++key) {
      if (map[BucketOf(table, key)] == shard) keys.push_back(key);
    }
    return keys;
  }

  MessageHeader Header(MessageType type) {
    return {.type = type,
            .incarnation = kIncarnation,
            .codebook_version = kCodebookVersion,
            .client = 1,
            .sequence = ++sequence_,
            .step = 5};
  }

  void Send(std::span<const std::byte> bytes) {
    Frame frame = context_.NewFrame(bytes.size());
    if (!bytes.empty()) std::memcpy(frame.bytes().data(), bytes.data(), bytes.size());
    const Deadline deadline = Soon();
    while (!dealer_->Send(frame.Share())) {
      ASSERT_LT(SteadyClock::now(), deadline);
      const int fd = dealer_->fd();
      WaitReadable({&fd, 1}, DeadlineIn(std::chrono::milliseconds(20)));
    }
  }
  // The next reply. Its spans are valid until the next one.
  const Reply& Receive(std::chrono::milliseconds wait = std::chrono::seconds(60)) {
    const Deadline deadline = DeadlineIn(wait);
    while (!dealer_->Receive(&frame_)) {
      if (SteadyClock::now() >= deadline) {
        ADD_FAILURE() << "no reply";
        reply_ = {};
        return reply_;
      }
      const int fd = dealer_->fd();
      WaitReadable({&fd, 1}, DeadlineIn(std::chrono::milliseconds(20)));
    }
    const absl::Status status = DecodeReply(std::as_const(frame_).bytes(), &reply_);
    EXPECT_TRUE(status.ok()) << status;
    return reply_;
  }
  const Reply& Ask(const AlignedBytes& frame) {
    Send(frame.span());
    return Receive();
  }
  absl::Status Error(const AlignedBytes& frame) { return Ask(frame).error; }

  uint64_t Rows() {
    const auto stats = store_->Stats(Soon());
    EXPECT_TRUE(stats.ok());
    return stats->tables.at(0).rows + stats->tables.at(1).rows;
  }
  void ExpectServing() {
    const Reply& reply =
        Ask(RequestOf(Header(MessageType::kPull), {{.table = 0, .keys = KeysOf(0, 3)}}));
    EXPECT_EQ(reply.header.type, MessageType::kRows) << reply.error;
    EXPECT_EQ(reply.header.sequence, sequence_);
  }

  const TempFolder folder_;
  Context context_;
  std::unique_ptr<LocalStore> store_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<DealerSocket> dealer_;
  uint64_t sequence_ = 0;
  Frame frame_;
  Reply reply_;
};

}  // namespace savior
