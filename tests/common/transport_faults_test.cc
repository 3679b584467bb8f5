// What strangers can do to a socket, and cannot: rows oversize_endless, auth_matrix and slow_loris
// of docs/reliability.md.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/message.h"
#include "common/process.h"
#include "tests/common/transport_testing.h"
#include "tests/faults/figure.h"

namespace savior {
namespace {

// Longer than anything here should take: what takes longer hangs.
constexpr std::chrono::seconds kHang{30};

// ZMTP 3.0 (rfc.zeromq.org/spec/23).
std::string Greeting(const std::string& mechanism) {
  std::string greeting("\xff\0\0\0\0\0\0\0\x01\x7f\x03\0", 12);
  greeting += mechanism;
  greeting.resize(64);
  return greeting;
}
std::string Ready() {
  using std::string_literals::operator""s;
  const std::string body = "\x05READY\x0bSocket-Type\0\0\0\x06"s + "DEALER";
  return std::string("\x04", 1) + static_cast<char>(body.size()) + body;
}
// The head of a frame whose length takes eight bytes; flags: 1 more, 4 command.
std::string LongFrame(int flags, uint64_t length) {
  std::string frame(1, static_cast<char>(flags | 2));
  for (int shift = 56; shift >= 0; shift -= 8) frame += static_cast<char>(length >> shift);
  return frame;
}

TEST_F(TransportTest, OnlyAnAllowedKeyWithTheRightServerKeyIsDelivered) {
  const auto router = Bind("tcp://127.0.0.1:0", {.keys = server_});
  const SocketSecurity legitimate{.keys = client_, .server_key = server_.public_key};
  int delivered = 0;
  {
    const auto early = Connect(*router, legitimate);
    delivered += Delivers(early.get(), router.get(), kNever);
    EXPECT_EQ(delivered, 0) << "no allow-list yet";
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
    delivered += Delivers(dealer.get(), router.get(), kNever);
    EXPECT_EQ(delivered, 0);
  }
  {
    const auto dealer = Connect(*router, legitimate);
    EXPECT_TRUE(Delivers(dealer.get(), router.get(), kSoon));
  }
  // Taken off the list.
  ASSERT_TRUE(context_.AllowClients({}).ok());
  const auto late = Connect(*router, legitimate);
  delivered += Delivers(late.get(), router.get(), kNever);
  EXPECT_EQ(delivered, 0);
  PrintFigure("auth_matrix", absl::StrCat("plain, unknown key, wrong server key, another's public "
                                          "key, no list yet, no longer listed: ",
                                          delivered, " delivered; a listed key: delivered"));
}

// A plain server must not hand a client with keys its messages either.
TEST_F(TransportTest, AClientWithKeysTalksToNoPlainServer) {
  const auto router = Bind("tcp://127.0.0.1:0");
  const auto dealer = Connect(*router, {.keys = client_, .server_key = server_.public_key});
  EXPECT_FALSE(Delivers(dealer.get(), router.get(), kNever));
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

// Lengths of 2^30 to 2^63, before and after a handshake, and parts without end from somebody
// without a key: none takes memory, all lose their connection.
TEST_F(TransportTest, LengthsAndStreamsWithoutEndTakeNoMemory) {
  const auto plain = Bind("tcp://127.0.0.1:0");
  const auto curve = Bind("tcp://127.0.0.1:0", {.keys = server_});
  ASSERT_TRUE(context_.AllowClients({&client_.public_key, 1}).ok());
  const auto dealer = Connect(*curve, {.keys = client_, .server_key = server_.public_key});
  ASSERT_TRUE(Delivers(dealer.get(), curve.get(), kSoon));
  const uint64_t before = RssBytes();
  int closed = 0, attacks = 0;
  // `head`, then `more` again and again, as often as it is taken, up to four messages' worth.
  const auto attack = [&](const RouterSocket& router, const std::string& head,
                          const std::string& more) {
    Stranger stranger(router.endpoint());
    stranger.Write(head);
    for (size_t sent = 0; sent < 4 * kMaxFrameBytes; sent += more.size()) {
      if (stranger.Write(more) < more.size()) break;
    }
    ++attacks;
    const bool was_closed = stranger.IsClosedWithin(kHang);
    EXPECT_TRUE(was_closed);
    closed += was_closed;
  };
  const std::string body(1 << 20, '\x55');
  for (int bit = 30; bit < 64; ++bit) {
    const uint64_t length = uint64_t{1} << bit;
    attack(*plain, Greeting("NULL") + Ready() + LongFrame(0, length), body);
    attack(*curve, Greeting("CURVE") + LongFrame(4, length), body);
  }
  std::string parts;
  while (parts.size() < body.size()) parts += std::string("\x01\xff", 2) + std::string(255, 'p');
  for (int i = 0; i < 4; ++i) attack(*curve, Greeting("CURVE"), parts);
  const auto grown = static_cast<int64_t>(RssBytes()) - static_cast<int64_t>(before);
  EXPECT_LE(grown, 64 << 20);
  EXPECT_TRUE(Delivers(dealer.get(), curve.get(), kSoon));
  PrintFigure("oversize_endless",
              absl::StrCat(attacks, " attacks of 2^30 to 2^63 bytes and endless parts, ", closed,
                           " connections closed, RSS ", grown >> 20,
                           " MiB more, a client with a "
                           "listed key served"));
}

TEST_F(TransportTest, GarbageHurtsNobodyElse) {
  const auto router = Bind("tcp://127.0.0.1:0");
  // Without a READY command, a message whose length is almost 2^63.
  const std::string huge = Greeting("NULL") + LongFrame(0, INT64_MAX);
  for (const std::string& bytes : {std::string("GET / HTTP/1.0\r\n\r\n"), std::string(4096, '\xff'),
                                   std::string(100, '\0'), Greeting("NULL"), huge}) {
    Stranger stranger(router->endpoint());
    stranger.Write(bytes);
  }
  const auto dealer = Connect(*router);
  EXPECT_TRUE(Delivers(dealer.get(), router.get(), kSoon));
}

TEST_F(TransportTest, AnIdleStrangerIsThrownOut) {
  const auto router = Bind("tcp://127.0.0.1:0", {.keys = server_});
  Stranger stranger(router->endpoint());
  EXPECT_TRUE(stranger.IsClosedWithin(kHang));
}

// A process with few files that sends back what the client with key `client` sends. Made before
// this process has a context.
class EchoProcess {
 public:
  EchoProcess(rlim_t files, const CurveKeys& keys, const std::string& client) {
    std::array<int, 2> told{};
    EXPECT_EQ(::pipe(told.data()), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(told[0]);
      Serve(files, keys, client, told[1]);
      std::_Exit(1);
    }
    ::close(told[1]);
    char byte = 0;
    while (::read(told[0], &byte, 1) == 1) endpoint_ += byte;
    ::close(told[0]);
  }
  ~EchoProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  EchoProcess(const EchoProcess&) = delete;
  EchoProcess& operator=(const EchoProcess&) = delete;

  const std::string& endpoint() const { return endpoint_; }

 private:
  static void Serve(rlim_t files, const CurveKeys& keys, const std::string& client, int tell) {
    const rlimit limit{files, files};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    Context context;
    if (!context.AllowClients({&client, 1}).ok()) return;
    const auto router = RouterSocket::Bind(&context, "tcp://127.0.0.1:0", {.keys = keys});
    if (!router.ok()) return;
    const std::string& endpoint = (*router)->endpoint();
    if (::write(tell, endpoint.data(), endpoint.size()) < 0) return;
    ::close(tell);
    while (true) {
      Received received;
      if (ReceiveSoon(router->get(), &received, std::chrono::milliseconds(100))) {
        (*router)->Send(std::move(received.peer), std::move(received.message));
      }
    }
  }

  pid_t pid_ = -1;
  std::string endpoint_;
};

// Half of the strangers say nothing, the others a byte of a greeting now and then.
TEST(SlowLoris, IdleAndDrippingStrangersAreThrownOutAndOthersServed) {
  constexpr size_t kStrangers = 200;
  for (const rlim_t files : {rlim_t{1024}, rlim_t{64}}) {
    SCOPED_TRACE(files);
    const CurveKeys server = CurveKeys::Make(), client = CurveKeys::Make();
    const EchoProcess echo(files, server, client.public_key);
    ASSERT_FALSE(echo.endpoint().empty());
    Context context;
    const auto dealer = DealerSocket::Connect(&context, echo.endpoint(),
                                              {.keys = client, .server_key = server.public_key});
    ASSERT_TRUE(dealer.ok()) << dealer.status();
    Frame frame;
    const auto is_served = [&] {
      return SendSoon(dealer->get(), FrameOf(&context, "hello"), kHang) &&
             ReceiveSoon(dealer->get(), &frame, kHang) && TextOf(frame) == "hello";
    };
    ASSERT_TRUE(is_served());
    std::vector<std::unique_ptr<Stranger>> strangers;
    for (size_t i = 0; i < kStrangers; ++i) {
      strangers.push_back(std::make_unique<Stranger>(echo.endpoint()));
    }
    const auto began = SteadyClock::now();
    EXPECT_TRUE(is_served());
    const double served_s = SecondsSince(began);
    const std::string greeting = Greeting("CURVE");
    for (size_t sent = 0; !strangers.empty() && SteadyClock::now() < began + kHang; ++sent) {
      std::erase_if(strangers, [](const std::unique_ptr<Stranger>& stranger) {
        return stranger->IsClosedWithin(std::chrono::milliseconds(0));
      });
      for (size_t i = 0; i < strangers.size() && sent < greeting.size(); i += 2) {
        strangers[i]->Write(greeting.substr(sent, 1));
      }
      ::usleep(20'000);
    }
    const double cleared_s = SecondsSince(began);
    EXPECT_TRUE(strangers.empty()) << strangers.size() << " are still connected";
    EXPECT_TRUE(is_served());
    PrintFigure("slow_loris",
                absl::StrCat(kStrangers, " strangers, idle or dripping, ", files,
                             " files: all thrown out after ", cleared_s,
                             " s, a client with a listed key served after ", served_s, " s"));
  }
}

}  // namespace
}  // namespace savior
