#include "common/transport.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "common/frame_buffers.h"
#include "common/message.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::milliseconds kSoon{10'000};
// What is not delivered by then is not delivered.
constexpr std::chrono::milliseconds kNever{300};

Frame FrameOf(Context* context, const std::string& text) {
  Frame frame = context->NewFrame(text.size());
  std::memcpy(frame.bytes().data(), text.data(), text.size());
  return frame;
}

std::string TextOf(const Frame& frame) {
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

bool SendSoon(DealerSocket* dealer, Frame frame, std::chrono::milliseconds wait = kSoon) {
  return Eventually(wait, dealer->fd(), [&] { return dealer->Send(frame.Share()); });
}

struct Received {
  Frame peer;
  Frame message;
};
bool ReceiveSoon(RouterSocket* router, Received* received, std::chrono::milliseconds wait = kSoon) {
  return Eventually(wait, router->fd(),
                    [&] { return router->Receive(&received->peer, &received->message); });
}
bool ReceiveSoon(DealerSocket* dealer, Frame* frame, std::chrono::milliseconds wait = kSoon) {
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

TEST_F(TransportTest, FramesOfAllSizesArriveBothWaysAtMultiplesOf8) {
  ASSERT_TRUE(context_.AllowClients({&client_.public_key, 1}).ok());
  const std::string ipc = "ipc://" + (folder_ / "socket").string();
  for (const auto& [endpoint, curve] : {std::pair<std::string, bool>{ipc, false},
                                        {"tcp://127.0.0.1:0", false},
                                        {"tcp://127.0.0.1:0", true}}) {
    const SocketSecurity none;
    const auto router = Bind(endpoint, curve ? SocketSecurity{.keys = server_} : none);
    const auto dealer = Connect(
        *router, curve ? SocketSecurity{.keys = client_, .server_key = server_.public_key} : none);
    for (const size_t size :
         {1u, 8u, 33u, 34u, 72u, 1001u, 4095u, 4096u, 8191u, 8192u, 100'003u, 1'000'000u}) {
      std::string text(size, 'x');
      for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31);
      ASSERT_TRUE(SendSoon(dealer.get(), FrameOf(&context_, text)));
      Received received;
      ASSERT_TRUE(ReceiveSoon(router.get(), &received)) << size;
      EXPECT_EQ(TextOf(received.message), text);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(received.message.bytes().data()) % 8, 0u);
      ASSERT_TRUE(router->Send(std::move(received.peer), std::move(received.message)));
      Frame back;
      ASSERT_TRUE(ReceiveSoon(dealer.get(), &back)) << size;
      EXPECT_EQ(TextOf(back), text);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(std::as_const(back).bytes().data()) % 8, 0u);
    }
  }
}

TEST_F(TransportTest, TheLargestFrameFitsWithCurveToo) {
  ASSERT_TRUE(context_.AllowClients({&client_.public_key, 1}).ok());
  const auto router = Bind("tcp://127.0.0.1:0", {.keys = server_});
  const auto dealer = Connect(*router, {.keys = client_, .server_key = server_.public_key});
  ASSERT_TRUE(SendSoon(dealer.get(), context_.NewFrame(kMaxFrameBytes)));
  Received received;
  ASSERT_TRUE(ReceiveSoon(router.get(), &received));
  EXPECT_EQ(received.message.bytes().size(), kMaxFrameBytes);
}

TEST_F(TransportTest, TheLoopbackOfIpv6Works) {
  auto router = RouterSocket::Bind(&context_, "tcp://[::1]:0", {});
  if (!router.ok()) GTEST_SKIP() << "no IPv6 here: " << router.status();
  const auto dealer = Connect(**router);
  EXPECT_TRUE(Delivers(dealer.get(), router->get(), kSoon));
}

TEST_F(TransportTest, FramesShareTheirBytes) {
  Frame frame = FrameOf(&context_, std::string(10'000, 'a'));
  Frame shared = frame.Share();
  EXPECT_EQ(std::as_const(frame).bytes().data(), std::as_const(shared).bytes().data());
  const Frame moved = std::move(frame);
  EXPECT_EQ(TextOf(moved), std::string(10'000, 'a'));
}

TEST_F(TransportTest, WhatIsOnThisMachine) {
  for (const char* const local : {"ipc:///tmp/x", "tcp://127.0.0.1:5", "tcp://127.9.9.9:0",
                                  "tcp://localhost:5", "tcp://[::1]:5", "inproc://x"}) {
    EXPECT_TRUE(IsOnThisMachine(local)) << local;
  }
  for (const char* const remote : {"tcp://10.0.0.1:5", "tcp://*:5", "tcp://0.0.0.0:5",
                                   "tcp://eth0:5", "tcp://[::]:5", "tcp://", "tcp://127.evil.com:5",
                                   "tcp://127.0.0.1:0;10.0.0.1:5", "udp://127.0.0.1:5", ""}) {
    EXPECT_FALSE(IsOnThisMachine(remote)) << remote;
  }
}

TEST_F(TransportTest, PlainBeyondThisMachineIsRefusedUnlessInsecure) {
  const auto refused = RouterSocket::Bind(&context_, "tcp://0.0.0.0:0", {});
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status()));
  EXPECT_THAT(refused.status().message(), HasSubstr("tcp://0.0.0.0:0"));
  EXPECT_TRUE(
      absl::IsInvalidArgument(DealerSocket::Connect(&context_, "tcp://192.0.2.1:9", {}).status()));
  EXPECT_TRUE(RouterSocket::Bind(&context_, "tcp://0.0.0.0:0", {.insecure = true}).ok());
}

TEST_F(TransportTest, BadEndpointsAndKeysAreRefused) {
  const auto router = Bind("tcp://127.0.0.1:0");
  EXPECT_TRUE(
      absl::IsFailedPrecondition(RouterSocket::Bind(&context_, router->endpoint(), {}).status()));
  EXPECT_FALSE(RouterSocket::Bind(&context_, "ipc:///proc/no/such/folder/x", {}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(
      DealerSocket::Connect(&context_, "tcp://127.0.0.1:port", {}).status()));
  const CurveKeys none{.public_key = "short", .secret_key = "short"};
  EXPECT_TRUE(absl::IsInvalidArgument(
      RouterSocket::Bind(&context_, "tcp://127.0.0.1:0", {.keys = none}).status()));
  const SocketSecurity no_server{.keys = client_, .server_key = "?"};
  EXPECT_TRUE(absl::IsInvalidArgument(
      DealerSocket::Connect(&context_, router->endpoint(), no_server).status()));
  const std::string bad_key = "not a key";
  EXPECT_TRUE(absl::IsInvalidArgument(context_.AllowClients({&bad_key, 1})));
}

TEST_F(TransportTest, OnlyAnAllowedKeyWithTheRightServerKeyIsDelivered) {
  const auto router = Bind("tcp://127.0.0.1:0", {.keys = server_});
  const SocketSecurity legitimate{.keys = client_, .server_key = server_.public_key};
  {
    const auto early = Connect(*router, legitimate);
    EXPECT_FALSE(Delivers(early.get(), router.get(), kNever)) << "no allow-list yet";
  }
  ASSERT_TRUE(context_.AllowClients({&client_.public_key, 1}).ok());
  const CurveKeys stranger = CurveKeys::Make();
  const SocketSecurity intruders[] = {{},
                                      {.keys = stranger, .server_key = server_.public_key},
                                      {.keys = client_, .server_key = stranger.public_key},
                                      {.keys = CurveKeys{client_.public_key, stranger.secret_key},
                                       .server_key = server_.public_key}};
  for (const SocketSecurity& security : intruders) {
    const auto dealer = Connect(*router, security);
    EXPECT_FALSE(Delivers(dealer.get(), router.get(), kNever));
  }
  const auto dealer = Connect(*router, legitimate);
  EXPECT_TRUE(Delivers(dealer.get(), router.get(), kSoon));
}

TEST_F(TransportTest, AMessageOfSeveralPartsIsDroppedAndCounted) {
  const auto router = Bind("tcp://127.0.0.1:0");
  void* const raw_context = zmq_ctx_new();
  void* const raw = zmq_socket(raw_context, ZMQ_DEALER);
  ASSERT_EQ(zmq_connect(raw, router->endpoint().c_str()), 0);
  for (int i = 0; i < 3; ++i) {
    for (int part = 0; part < 4; ++part) {
      ASSERT_EQ(zmq_send(raw, "part", 4, part < 3 ? ZMQ_SNDMORE : 0), 4);
    }
  }
  ASSERT_EQ(zmq_send(raw, "whole", 5, 0), 5);
  Received received;
  ASSERT_TRUE(ReceiveSoon(router.get(), &received));
  EXPECT_EQ(TextOf(received.message), "whole");
  EXPECT_EQ(router->malformed(), 3u);
  zmq_close(raw);
  zmq_ctx_term(raw_context);
}

TEST_F(TransportTest, AnOversizedMessageIsNotDeliveredAndOthersGoOn) {
  const auto router = Bind("tcp://127.0.0.1:0");
  const auto dealer = Connect(*router);
  const auto other = Connect(*router);
  ASSERT_TRUE(SendSoon(dealer.get(), context_.NewFrame(kMaxFrameBytes + 4096)));
  EXPECT_TRUE(Delivers(other.get(), router.get(), kSoon));
  Received received;
  EXPECT_FALSE(ReceiveSoon(router.get(), &received, kNever));
}

TEST_F(TransportTest, ASendToNobodySaysSo) {
  const auto router = Bind("tcp://127.0.0.1:0");
  EXPECT_FALSE(router->Send(FrameOf(&context_, "nobody"), FrameOf(&context_, "x")));
  const auto dealer = DealerSocket::Connect(&context_, "tcp://127.0.0.1:1", {});
  ASSERT_TRUE(dealer.ok());
  EXPECT_FALSE((*dealer)->Send(FrameOf(&context_, "x")));
  Frame frame;
  EXPECT_FALSE((*dealer)->Receive(&frame));
}

// A TCP connection of somebody who does not speak ZeroMQ.
class Stranger {
 public:
  explicit Stranger(const std::string& endpoint) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port =
        htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~Stranger() { ::close(fd_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  void Write(const std::string& bytes) {
    static_cast<void>(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL));
  }
  bool IsClosedWithin(std::chrono::milliseconds wait) {
    const Deadline deadline = DeadlineIn(wait);
    char greeting[256];
    while (SteadyClock::now() < deadline) {
      pollfd waits{.fd = fd_, .events = POLLIN, .revents = 0};
      if (::poll(&waits, 1, 50) > 0 && ::recv(fd_, greeting, sizeof(greeting), 0) <= 0) return true;
    }
    return false;
  }

 private:
  const int fd_;
};

TEST_F(TransportTest, GarbageHurtsNobodyElse) {
  const auto router = Bind("tcp://127.0.0.1:0");
  std::string greeting = {"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL", 16};
  greeting.resize(64);
  // A READY command, then a message whose length is 2^63.
  const std::string huge = greeting + std::string("\x02\x7f\xff\xff\xff\xff\xff\xff\xff", 9);
  for (const std::string& bytes : {std::string("GET / HTTP/1.0\r\n\r\n"), std::string(4096, '\xff'),
                                   std::string(100, '\0'), greeting, huge}) {
    Stranger stranger(router->endpoint());
    stranger.Write(bytes);
  }
  const auto dealer = Connect(*router);
  EXPECT_TRUE(Delivers(dealer.get(), router.get(), kSoon));
}

TEST_F(TransportTest, AnIdleStrangerIsThrownOut) {
  const auto router = Bind("tcp://127.0.0.1:0", {.keys = server_});
  Stranger stranger(router->endpoint());
  EXPECT_TRUE(stranger.IsClosedWithin(std::chrono::milliseconds(3000)));
}

TEST_F(TransportTest, KeysComeBackFromAFileThatOnlyItsOwnerReads) {
  const std::filesystem::path path = folder_ / "keys";
  ASSERT_TRUE(server_.Save(path).ok());
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0400u);
  const auto loaded = CurveKeys::Load(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->public_key, server_.public_key);
  EXPECT_EQ(loaded->secret_key, server_.secret_key);
  EXPECT_TRUE(absl::IsFailedPrecondition(client_.Save(path)));
}

TEST_F(TransportTest, UnsafeAndDamagedKeyFilesAreRefused) {
  const std::filesystem::path path = folder_ / "keys";
  EXPECT_FALSE(CurveKeys::Load(path).ok());
  ASSERT_TRUE(server_.Save(path).ok());
  std::filesystem::permissions(path, std::filesystem::perms(0440));
  EXPECT_TRUE(absl::IsFailedPrecondition(CurveKeys::Load(path).status()));
  std::filesystem::permissions(path, std::filesystem::perms(0600));
  EXPECT_TRUE(CurveKeys::Load(path).ok());
  for (const char* const text : {"", "x\ny\n", "\n\n"}) {
    std::ofstream(path) << text;
    EXPECT_TRUE(absl::IsDataLoss(CurveKeys::Load(path).status())) << text;
  }
}

TEST(FrameBuffers, ABufferThatComesBackIsUsedAgain) {
  FrameBuffers buffers;
  void* const first = buffers.Take(10'000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  std::memset(first, 1, 10'000);
  FrameBuffers::Return(first, &buffers);
  void* const other_size = buffers.Take(100'000);
  EXPECT_NE(other_size, first);
  void* const again = buffers.Take(16'384);
  EXPECT_EQ(again, first);
  FrameBuffers::Return(again, &buffers);
  FrameBuffers::Return(other_size, &buffers);
}

TEST(FrameBuffers, ThreadsShareThem) {
  FrameBuffers buffers;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 1; i < 2000; ++i) {
        void* const buffer = buffers.Take(i * 37);
        std::memset(buffer, 1, i * 37);
        FrameBuffers::Return(buffer, &buffers);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace savior
