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

 private:
  void Run() {
    std::vector<Frame> to_server;
    std::vector<Frame> to_client;
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

  void Take(Frame* message, std::vector<Frame>* waiting) {
    if (random_.Below(10) == 0) {
      ++lost_;
      return;
    }
    if (random_.Below(10) == 0) {
      ++doubled_;
      waiting->push_back(message->Share());
    }
    waiting->push_back(std::move(*message));
  }

  // Some of what waits, in any order.
  template <typename Send>
  void Pass(std::vector<Frame>* waiting, Send send) {
    while (!waiting->empty() && random_.Below(4) != 0) {
      const size_t at = random_.Below(waiting->size());
      std::swap((*waiting)[at], waiting->back());
      send(std::move(waiting->back()));
      waiting->pop_back();
    }
  }

  Random random_;
  std::unique_ptr<RouterSocket> front_;
  std::unique_ptr<DealerSocket> back_;
  std::atomic<bool> stop_{false};
  std::atomic<int> lost_{0};
  std::atomic<int> doubled_{0};
  std::thread thread_;
};

}  // namespace savior
