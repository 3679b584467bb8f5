#include "common/transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "common/frame_buffers.h"
#include "common/message.h"
#include "tests/common/transport_testing.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

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

TEST_F(TransportTest, ASendToNobodySaysSo) {
  const auto router = Bind("tcp://127.0.0.1:0");
  EXPECT_FALSE(router->Send(FrameOf(&context_, "nobody"), FrameOf(&context_, "x")));
  const auto dealer = DealerSocket::Connect(&context_, "tcp://127.0.0.1:1", {});
  ASSERT_TRUE(dealer.ok());
  EXPECT_FALSE((*dealer)->Send(FrameOf(&context_, "x")));
  Frame frame;
  EXPECT_FALSE((*dealer)->Receive(&frame));
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
