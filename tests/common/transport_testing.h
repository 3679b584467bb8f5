// What tests of the transport share: two sockets, waiting, and somebody who does not speak ZeroMQ.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "common/transport.h"
#include "tests/common/temp_folder.h"

namespace savior {

inline constexpr std::chrono::milliseconds kSoon{10'000};
// What is not delivered by then is not delivered.
inline constexpr std::chrono::milliseconds kNever{300};

inline Frame FrameOf(Context* context, const std::string& text) {
  Frame frame = context->NewFrame(text.size());
  std::memcpy(frame.bytes().data(), text.data(), text.size());
  return frame;
}

inline std::string TextOf(const Frame& frame) {
  return {reinterpret_cast<const char*>(frame.bytes().data()), frame.bytes().size()};
}

// Repeats `attempt` until it returns true, or gives up after `wait`.
template <typename Attempt>
bool Eventually(std::chrono::milliseconds wait, int fd, Attempt attempt) {
  const Deadline deadline = DeadlineIn(wait);
  while (!attempt()) {
    if (SteadyClock::now() >= deadline) return false;
    WaitReadable({&fd, 1}, std::min(deadline, DeadlineIn(std::chrono::milliseconds(20))));
  }
  return true;
}

inline bool SendSoon(DealerSocket* dealer, Frame frame, std::chrono::milliseconds wait = kSoon) {
  return Eventually(wait, dealer->fd(), [&] { return dealer->Send(frame.Share()); });
}

struct Received {
  Frame peer;
  Frame message;
};
inline bool ReceiveSoon(RouterSocket* router, Received* received,
                        std::chrono::milliseconds wait = kSoon) {
  return Eventually(wait, router->fd(),
                    [&] { return router->Receive(&received->peer, &received->message); });
}
inline bool ReceiveSoon(DealerSocket* dealer, Frame* frame,
                        std::chrono::milliseconds wait = kSoon) {
  return Eventually(wait, dealer->fd(), [&] { return dealer->Receive(frame); });
}

class TransportTest : public testing::Test {
 protected:
  std::unique_ptr<RouterSocket> Bind(const std::string& endpoint,
                                     const SocketSecurity& security = {}) {
    auto router = RouterSocket::Bind(&context_, endpoint, security);
    EXPECT_TRUE(router.ok()) << router.status();
    return *std::move(router);
  }
  std::unique_ptr<DealerSocket> Connect(const RouterSocket& router,
                                        const SocketSecurity& security = {}) {
    auto dealer = DealerSocket::Connect(&context_, router.endpoint(), security);
    EXPECT_TRUE(dealer.ok()) << dealer.status();
    return *std::move(dealer);
  }
  // Whether a message of `dealer` arrives.
  bool Delivers(DealerSocket* dealer, RouterSocket* router, std::chrono::milliseconds wait) {
    Received received;
    return SendSoon(dealer, FrameOf(&context_, "hello"), wait) &&
           ReceiveSoon(router, &received, wait);
  }

  const TempFolder folder_;
  const CurveKeys server_ = CurveKeys::Make();
  const CurveKeys client_ = CurveKeys::Make();
  Context context_;
};

// A TCP connection of somebody who does not speak ZeroMQ, or speaks it badly.
class Stranger {
 public:
  // Does not wait for the other side to accept.
  explicit Stranger(const std::string& endpoint)
      : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port =
        htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int result = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    EXPECT_TRUE(result == 0 || errno == EINPROGRESS) << std::strerror(errno);
  }
  ~Stranger() { ::close(fd_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  // Bytes sent, before the other side stopped reading for a while or closed.
  size_t Write(const std::string& bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
      pollfd waits{.fd = fd_, .events = POLLOUT, .revents = 0};
      if (::poll(&waits, 1, 200) <= 0) break;
      const ssize_t n = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    return sent;
  }
  bool IsClosedWithin(std::chrono::milliseconds wait) {
    const Deadline deadline = DeadlineIn(wait);
    char greeting[256];
    do {
      pollfd waits{.fd = fd_, .events = POLLIN, .revents = 0};
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now());
      const int ms = static_cast<int>(std::clamp<int64_t>(left.count(), 0, 50));
      if (::poll(&waits, 1, ms) > 0 && ::recv(fd_, greeting, sizeof(greeting), 0) <= 0) return true;
    } while (SteadyClock::now() < deadline);
    return false;
  }

 private:
  const int fd_;
};

}  // namespace savior
