// A network that loses, doubles, delays and reorders messages, between one client and one shard.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/transport.h"

namespace savior {

// One message in twenty each, in both directions.
class LossyProxy {
 public:
  LossyProxy(Context* context, const std::string& server, uint64_t seed) : random_(seed) {
    auto front = RouterSocket::Bind(context, "tcp://127.0.0.1:0", {});
    auto back = DealerSocket::Connect(context, server, {});
    EXPECT_TRUE(front.ok() && back.ok());
    front_ = *std::move(front);
    back_ = *std::move(back);
    thread_ = std::thread([this] { Run(); });
  }
  ~LossyProxy() {
    stop_ = true;
    thread_.join();
  }
  LossyProxy(const LossyProxy&) = delete;
  LossyProxy& operator=(const LossyProxy&) = delete;

  const std::string& endpoint() const { return front_->endpoint(); }
  int lost() const { return lost_; }
  int doubled() const { return doubled_; }
  int delayed() const { return delayed_; }
  int reordered() const { return reordered_; }

 private:
  static constexpr uint64_t kOneIn = 20;

  struct Waiting {
    Frame frame;
    Deadline due;
    bool overtaken;  // goes behind the next one, or when it is due
  };

  void Run() {
    std::vector<Waiting> to_server;
    std::vector<Waiting> to_client;
    Frame client;
    Frame peer;
    Frame message;
    while (!stop_) {
      while (front_->Receive(&peer, &message)) {
        client = peer.Share();
        Take(&message, &to_server);
      }
      while (back_->Receive(&message)) Take(&message, &to_client);
      Pass(&to_server, [&](Frame frame) { back_->Send(std::move(frame)); });
      Pass(&to_client, [&](Frame frame) { front_->Send(client.Share(), std::move(frame)); });
      const int fds[] = {front_->fd(), back_->fd()};
      WaitReadable(fds, DeadlineIn(std::chrono::milliseconds(1)));
    }
  }

  bool Happens(std::atomic<int>* count) {
    if (random_.Below(kOneIn) != 0) return false;
    ++*count;
    return true;
  }

  void Take(Frame* message, std::vector<Waiting>* waiting) {
    if (Happens(&lost_)) return;
    if (Happens(&doubled_)) waiting->push_back({message->Share(), SteadyClock::now(), false});
    const bool delayed = Happens(&delayed_), overtaken = Happens(&reordered_);
    const std::chrono::milliseconds wait(delayed ? 5 + random_.Below(45) : overtaken ? 20 : 0);
    waiting->push_back({std::move(*message), DeadlineIn(wait), overtaken});
  }

  // What is due, and behind it what it has overtaken.
  template <typename Send>
  void Pass(std::vector<Waiting>* waiting, Send send) {
    bool any = false;
    const auto pass = [&](auto may_go) {
      for (size_t i = 0; i < waiting->size();) {
        if (!may_go((*waiting)[i])) {
          ++i;
          continue;
        }
        send(std::move((*waiting)[i].frame));
        waiting->erase(waiting->begin() + static_cast<ptrdiff_t>(i));
        any = true;
      }
    };
    const Deadline now = SteadyClock::now();
    pass([now](const Waiting& w) { return w.due <= now; });
    if (any) pass([](const Waiting& w) { return w.overtaken; });
  }

  Random random_;
  std::unique_ptr<RouterSocket> front_;
  std::unique_ptr<DealerSocket> back_;
  std::atomic<bool> stop_{false};
  std::atomic<int> lost_{0}, doubled_{0}, delayed_{0}, reordered_{0};
  std::thread thread_;
};

}  // namespace savior
