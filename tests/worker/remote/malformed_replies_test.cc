// Row malformed_frames of docs/reliability.md: a client's socket, and a server that damages what it
// says. A call ends with the right rows or with a typed error, and the next one may go well.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/random.h"
#include "tests/faults/figure.h"
#include "tests/worker/remote/served_store.h"

namespace savior {
namespace {

constexpr uint64_t kSeed = 7;
constexpr int kPulls = 500;
constexpr int kMutationsPerReply = 20;

// Between one client and one shard: passes requests on, and before or behind every reply as many
// damaged ones.
class StammeringProxy {
 public:
  StammeringProxy(Context* context, const std::string& server) : context_(context) {
    auto front = RouterSocket::Bind(context, "tcp://127.0.0.1:0", {});
    auto back = DealerSocket::Connect(context, server, {});
    EXPECT_TRUE(front.ok() && back.ok());
    front_ = *std::move(front);
    back_ = *std::move(back);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) Pass();
    });
  }

  const std::string& endpoint() const { return front_->endpoint(); }
  void set_damages(bool damages) { damages_ = damages; }
  int sent() const { return sent_; }

 private:
  void Pass() {
    Frame peer;
    Frame message;
    while (front_->Receive(&peer, &message)) {
      client_ = peer.Share();
      back_->Send(std::move(message));
    }
    while (back_->Receive(&message)) {
      const bool damages = damages_;  // of all that belongs to this reply
      const bool first = random_.Below(2) == 0;
      if (first) front_->Send(client_.Share(), message.Share());
      for (int i = 0; damages && i < kMutationsPerReply; ++i) {
        sent_ += front_->Send(client_.Share(), Damaged(message));
      }
      if (!first) front_->Send(client_.Share(), std::move(message));
    }
    const int fds[] = {front_->fd(), back_->fd()};
    WaitReadable(fds, DeadlineIn(std::chrono::milliseconds(1)));
  }

  // Bytes changed, cut off or added; never the reply itself.
  Frame Damaged(const Frame& reply) {
    const std::span<const std::byte> good = reply.bytes();
    const size_t size = random_.Below(3) == 0 ? random_.Below(2 * good.size()) : good.size();
    Frame bad = context_->NewFrame(size);
    for (size_t i = 0; i < size; ++i) {
      bad.bytes()[i] = i < good.size() ? good[i] : static_cast<std::byte>(random_.Below(256));
    }
    if (size == 0) return bad;
    for (uint64_t change = random_.Below(4); change < 4; ++change) {
      bad.bytes()[random_.Below(size)] ^= static_cast<std::byte>(1 + random_.Below(255));
    }
    return bad;
  }

  Context* const context_;
  Random random_{kSeed};
  std::unique_ptr<RouterSocket> front_;
  std::unique_ptr<DealerSocket> back_;
  Frame client_;
  std::atomic<bool> damages_{true};
  std::atomic<int> sent_{0};
  std::jthread thread_;  // last
};

TEST(MalformedReplies, TenThousandOfThemGiveTypedErrorsAndNoWrongRow) {
  ServedStore served({.tables = {AlignSpec("t", 4, Optimizer(OptimizerKind::kSgd, 1))}});
  const std::vector<uint64_t> keys = Keys(0, 20);
  const auto direct = served.Connect();
  ASSERT_TRUE(PushRows(*direct, 0, 0, keys, std::vector<float>(80, -1)).ok());
  StammeringProxy proxy(&served.context(), served.endpoints()[0]);
  RemoteStoreOptions options = served.ClientOptions();
  options.endpoints = {proxy.endpoint()};
  options.retry_after = std::chrono::milliseconds(20);
  const auto store = served.Connect(options);
  int good = 0, refused = 0;
  for (int i = 0; i < kPulls; ++i) {
    std::vector<float> rows(80);
    const TablePull pull{.table = 0, .keys = keys, .rows = rows};
    const absl::Status status = store->Pull({&pull, 1}, Soon());
    if (status.ok()) {
      ASSERT_EQ(rows, std::vector<float>(80, 1));
      ++good;
    } else {
      // Never a deadline: the genuine reply came, too.
      ASSERT_FALSE(absl::IsDeadlineExceeded(status) || absl::IsInternal(status)) << status;
      ++refused;
    }
  }
  EXPECT_GT(good, 0);
  EXPECT_GT(refused, 0);
  proxy.set_damages(false);
  // What is still on its way belongs to calls that are over.
  EXPECT_EQ(PullRows(*store, 0, keys).rows, std::vector<float>(80, 1));
  // Only now: the last of them may be sent after the pull that they belong to is over.
  EXPECT_GE(proxy.sent(), kPulls * kMutationsPerReply);
  PrintFigure(
      "malformed_frames",
      absl::StrCat("client: ", proxy.sent(), " damaged replies, of ", kPulls, " pulls ", good,
                   " right, ", refused, " refused with a typed error, 0 wrong (seed ", kSeed, ")"));
}

}  // namespace
}  // namespace savior
