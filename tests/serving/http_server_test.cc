#include "serving/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "common/process.h"
#include "tests/common/temp_folder.h"
#include "tests/serving/fake_scorer.h"

namespace savior {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kBody = R"({"candidates": [12, 13]})";
constexpr const char* kJson = "application/json";

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override { current_.Set(std::make_shared<FakeScorer>(7)); }

  std::unique_ptr<ScoringServer> Start(HttpServerOptions options = {}) {
    options.threads = std::min(options.threads, 8);
    options.drain_s = 0.2;
    auto server = ScoringServer::Start(std::move(options), current_, metrics_);
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }

  absl::Status Refusal(HttpServerOptions options) {
    return ScoringServer::Start(std::move(options), current_, metrics_).status();
  }

  std::string File(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }

  CurrentScorer current_;
  ServingMetrics metrics_;
  const TempFolder folder_;
};

httplib::Client ClientOf(const ScoringServer& server) {
  httplib::Client client("127.0.0.1", server.port());
  client.set_read_timeout(30);
  client.set_keep_alive(true);
  return client;
}

// A connection without a client's good manners.
class Raw {
 public:
  explicit Raw(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    const timeval longest{.tv_sec = 30, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &longest, sizeof(longest));
  }
  ~Raw() { ::close(fd_); }
  Raw(const Raw&) = delete;
  Raw& operator=(const Raw&) = delete;

  bool connected() const { return connected_; }
  bool Send(const std::string& bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // Until the server closes.
  std::string ReadAll() const {
    std::string text;
    char bytes[4096];
    for (ssize_t got = 0; (got = ::recv(fd_, bytes, sizeof(bytes), 0)) > 0;) {
      text.append(bytes, static_cast<size_t>(got));
    }
    return text;
  }

 private:
  const int fd_;
  bool connected_ = false;
};

std::string Ask(const ScoringServer& server, const std::string& bytes) {
  const Raw raw(server.port());
  EXPECT_TRUE(raw.Send(bytes));
  return raw.ReadAll();
}

TEST_F(HttpServerTest, EveryEndpointAnswersOnOneConnection) {
  const auto server = Start();
  EXPECT_EQ(server->url(), fmt::format("http://127.0.0.1:{}", server->port()));
  auto client = ClientOf(*server);
  for (int round = 0; round < 20; ++round) {  // more than cpp-httplib's own 5 per connection
    const auto ranked = client.Post("/v1/rank", kBody, kJson);
    ASSERT_TRUE(ranked) << httplib::to_string(ranked.error());
    EXPECT_EQ(ranked->status, 200);
    EXPECT_EQ(ranked->get_header_value("Content-Type"), kJson);
    EXPECT_EQ(json::parse(ranked->body).at("version"), "000000000007");
    for (const char* path : {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/savior",
                             "/v2/models/savior/ready", "/v2/models/savior/versions/000000000007",
                             "/v2/models/savior?x=1"}) {
      const auto got = client.Get(path);
      ASSERT_TRUE(got) << path;
      EXPECT_EQ(got->status, 200) << path;
      EXPECT_TRUE(json::accept(got->body)) << path;
    }
  }
  const auto metrics = client.Get("/metrics");
  EXPECT_THAT(metrics->body, HasSubstr("savior_requests_total{code=\"200\",endpoint=\"rank\"} 20"));
  EXPECT_THAT(metrics->body, HasSubstr("savior_connections 1"));
}

TEST_F(HttpServerTest, InferAnswersInBytes) {
  const auto server = Start();
  auto client = ClientOf(*server);
  const std::string text =
      R"({"inputs":[{"name":"item","datatype":"INT64","shape":[2],"parameters":{"binary_data_size":16}}],)"
      R"("outputs":[{"name":"p_ctr","parameters":{"binary_data":true}}]})";
  const std::string binary(16, '\1');
  const auto answer = client.Post(
      "/v2/models/savior/infer",
      httplib::Headers{{"Inference-Header-Content-Length", std::to_string(text.size())}},
      text + binary, "application/octet-stream");
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->status, 200) << answer->body;
  EXPECT_EQ(answer->get_header_value("Content-Type"), "application/octet-stream");
  const auto json_bytes = std::stoul(answer->get_header_value("Inference-Header-Content-Length"));
  ASSERT_EQ(answer->body.size(), json_bytes + 8);
  float scores[2];
  std::memcpy(scores, answer->body.data() + json_bytes, sizeof(scores));
  EXPECT_EQ(scores[0], 0.5F);
  EXPECT_EQ(scores[1], 0.25F);
}

TEST_F(HttpServerTest, TheTypeOfTheBodyIsNotLookedAt) {
  const auto server = Start();
  auto client = ClientOf(*server);
  for (const char* type : {"application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
                           "text/plain", "?"}) {
    const auto answer = client.Post("/v1/rank", kBody, type);
    ASSERT_TRUE(answer) << type;
    EXPECT_EQ(answer->status, 200) << type;
  }
}

TEST_F(HttpServerTest, ErrorsHaveTheirCodesAndOneForm) {
  const auto server = Start();
  auto client = ClientOf(*server);
  const auto expect = [](const httplib::Result& answer, int code) {
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, code);
    EXPECT_TRUE(json::parse(answer->body).at("error").is_string());
    EXPECT_EQ(answer->get_header_value_count("Content-Length"), 1u);
  };
  expect(client.Post("/v1/rank", "{", kJson), 400);
  expect(client.Get("/nowhere"), 404);
  EXPECT_EQ(client.Put("/v1/rank", kBody, kJson)->get_header_value("Connection"), "close");
  expect(client.Get("/v1/rank"), 405);
  expect(client.Put("/v1/rank", kBody, kJson), 405);
  expect(client.Delete("/v2"), 405);
  expect(client.Post("/v2", kBody, kJson), 405);
  expect(client.Post("/no%0Awhere", kBody, kJson), 404);
  current_.Set(std::make_shared<FakeScorer>(
      7, 0.25F, [](const RankRequest&) -> absl::Status { throw std::runtime_error("x"); }));
  expect(client.Post("/v1/rank", kBody, kJson), 500);
  current_.Set(nullptr);
  expect(client.Post("/v1/rank", kBody, kJson), 503);
  EXPECT_EQ(client.Get("/v2/health/ready")->get_header_value("Retry-After"), "1");
}

TEST_F(HttpServerTest, CandidatesFromNoneToTooMany) {
  const auto server = Start({.service = {.limits = {.candidates = 10'000}}});
  auto client = ClientOf(*server);
  const auto rank = [&](size_t candidates) {
    const json body = {{"candidates", std::vector<int>(candidates, 5)}};
    return client.Post("/v1/rank", body.dump(), kJson);
  };
  EXPECT_EQ(rank(0)->status, 400);
  EXPECT_EQ(rank(1)->status, 200);
  EXPECT_EQ(json::parse(rank(10'000)->body).at("p_ctcvr").size(), 10'000u);
  EXPECT_EQ(rank(10'001)->status, 400);
}

TEST_F(HttpServerTest, AHundredMegabytesAreRefusedWithoutBeingKept) {
  const auto server = Start();
  const std::string head = "POST /v1/rank HTTP/1.1\r\nHost: x\r\n";
  const std::string slice(1 << 20, ' ');
  const uint64_t peak_before = PeakRssBytes();
  {
    const Raw raw(server->port());
    ASSERT_TRUE(raw.Send(head + "Content-Length: 104857600\r\n\r\n"));
    for (int i = 0; i < 100 && raw.Send(slice); ++i) {
    }
    EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 413"));
  }
  {
    const Raw raw(server->port());
    ASSERT_TRUE(raw.Send(head + "Transfer-Encoding: chunked\r\n\r\n"));
    for (int i = 0; i < 100 && raw.Send("100000\r\n" + slice + "\r\n"); ++i) {
    }
    EXPECT_THAT(raw.ReadAll(), StartsWith("HTTP/1.1 413"));
  }
#ifndef SAVIOR_SANITIZED
  EXPECT_LT(PeakRssBytes() - peak_before, uint64_t{48} << 20);
#else
  static_cast<void>(peak_before);
#endif
  // And the server is well.
  EXPECT_EQ(ClientOf(*server).Post("/v1/rank", kBody, kJson)->status, 200);
}

TEST_F(HttpServerTest, APackedBodyIsCountedUnpacked) {
  const auto server = Start({.service = {.max_body_bytes = 100'000}});
  auto client = ClientOf(*server);
  client.set_compress(true);
  EXPECT_EQ(client.Post("/v1/rank", kBody + std::string(90'000, ' '), kJson)->status, 200);
  EXPECT_EQ(client.Post("/v1/rank", kBody + std::string(110'000, ' '), kJson)->status, 413);
}

TEST_F(HttpServerTest, WhoAsksFirstIsRefusedBeforeHeSends) {
  const auto server = Start();
  const std::string expects = "Host: x\r\nExpect: 100-continue\r\n";
  const std::string refusal =
      Ask(*server, "POST /v1/rank HTTP/1.1\r\n" + expects + "Content-Length: 104857600\r\n\r\n");
  EXPECT_THAT(refusal, StartsWith("HTTP/1.1 413"));
  EXPECT_THAT(refusal, HasSubstr("Content-Length: "));
  const std::string taken =
      Ask(*server, "POST /v1/rank HTTP/1.1\r\nConnection: close\r\n" + expects +
                       fmt::format("Content-Length: {}\r\n\r\n{}", std::strlen(kBody), kBody));
  EXPECT_THAT(taken, StartsWith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"));
}

TEST_F(HttpServerTest, WhatIsNotHttpIsRefused) {
  const auto server = Start();
  EXPECT_THAT(Ask(*server, "hello\r\n\r\n"), StartsWith("HTTP/1.1 400"));
  EXPECT_THAT(Ask(*server, "GET /v2 HTTP/1.1\r\nx: " + std::string(200'000, 'x') + "\r\n\r\n"),
              StartsWith("HTTP/1.1 4"));
  std::string many = "GET /v2 HTTP/1.1\r\n";
  for (int i = 0; i < 100'000; ++i) many += "a: b\r\n";
  EXPECT_THAT(Ask(*server, many), StartsWith("HTTP/1.1 431"));
  EXPECT_THAT(Ask(*server, "POST /v1/rank HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 411"));
  // Two requests or one? Nobody shall have to guess.
  EXPECT_THAT(Ask(*server,
                  "POST /v1/rank HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: "
                  "chunked\r\n\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\n\r\n"),
              StartsWith("HTTP/1.1 400"));
  EXPECT_EQ(ClientOf(*server).Get("/v2")->status, 200);
}

TEST_F(HttpServerTest, AHeadThatIsRefusedEndsItsConnection) {
  const auto server = Start();
  // Were the body left in the stream, it would be answered as a request of its own.
  const std::string inner = "GET /v2 HTTP/1.1\r\n\r\n";
  const std::string answer = Ask(
      *server,
      fmt::format("POST /nowhere HTTP/1.1\r\nContent-Length: {}\r\n\r\n{}", inner.size(), inner));
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 404"));
  EXPECT_EQ(answer.find("HTTP/1.1", 1), std::string::npos);
}

TEST_F(HttpServerTest, RequestsThatTrickleInAreCutOff) {
  const auto server = Start({.request_timeout_s = 0.3});
  const Raw silent(server->port()), head(server->port()), body(server->port());
  ASSERT_TRUE(head.Send("POST /v1/rank HT"));
  ASSERT_TRUE(body.Send("POST /v1/rank HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"));
  EXPECT_THAT(body.ReadAll(), StartsWith("HTTP/1.1 408"));
  head.ReadAll();  // ends
  EXPECT_EQ(ClientOf(*server).Get("/v2")->status, 200);
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInTurn) {
  const auto server = Start();
  const std::string answers = Ask(*server,
                                  "GET /v2 HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET "
                                  "/v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n");
  const size_t second = answers.find("HTTP/1.1 404");
  EXPECT_THAT(answers, StartsWith("HTTP/1.1 200"));
  ASSERT_NE(second, std::string::npos);
  EXPECT_NE(answers.find("HTTP/1.1 200", second), std::string::npos);
}

TEST_F(HttpServerTest, MoreConnectionsThanThreadsTakeTurns) {
  const auto server = Start({.threads = 2, .crowded_idle_s = 600});
  std::vector<std::thread> threads;
  std::atomic<int> ok = 0;
  for (int i = 0; i < 12; ++i) {
    threads.emplace_back([&] {
      auto client = ClientOf(*server);
      for (int request = 0; request < 10; ++request) {
        const auto answer = client.Post("/v1/rank", kBody, kJson);
        ok += answer && answer->status == 200 ? 1 : 0;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ok, 120);
}

TEST_F(HttpServerTest, ConnectionsBeyondTheQueueAreRefused) {
  const auto server = Start({.threads = 1, .max_waiting = 1, .crowded_idle_s = 600});
  auto busy = ClientOf(*server);
  ASSERT_EQ(busy.Get("/v2")->status, 200);  // has the thread
  const Raw waits(server->port());          // in the queue
  // The next one that the server accepts after `waits` is one too many.
  const Raw refused(server->port());
  EXPECT_THAT(refused.ReadAll(), StartsWith("HTTP/1.1 503"));
}

TEST_F(HttpServerTest, TheTokenIsReadFromItsFile) {
  const std::string token = "a-token-of-24-characters";
  const auto server = Start({.token_file = File("token", token + "\n")});
  auto client = ClientOf(*server);
  EXPECT_EQ(client.Post("/v1/rank", kBody, kJson)->status, 401);
  EXPECT_EQ(client.Get("/v2/health/ready")->status, 200);
  client.set_bearer_token_auth(token);
  EXPECT_EQ(client.Post("/v1/rank", kBody, kJson)->status, 200);

  EXPECT_THAT(std::string(Refusal({.token_file = File("short", "abc\n")}).message()),
              HasSubstr("3 characters, must be 16 to 4096"));
  EXPECT_THAT(
      std::string(Refusal({.token_file = File("words", "two words of some length")}).message()),
      HasSubstr("one word"));
  EXPECT_TRUE(absl::IsNotFound(Refusal({.token_file = (folder_ / "none").string()})));
}

TEST_F(HttpServerTest, TlsWithACertificateOfItsOwn) {
  const std::string key = (folder_ / "key.pem").string();
  const std::string certificate = (folder_ / "certificate.pem").string();
  ASSERT_EQ(std::system(fmt::format("openssl req -x509 -newkey rsa:2048 -nodes -keyout {} -out {} "
                                    "-days 2 -subj /CN=localhost -addext "
                                    "subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null",
                                    key, certificate)
                            .c_str()),
            0);
  const auto server = Start({.tls_certificate = certificate, .tls_key = key});
  EXPECT_THAT(server->url(), StartsWith("https://"));
  httplib::SSLClient client("localhost", server->port());
  client.set_ca_cert_path(certificate.c_str());
  client.enable_server_certificate_verification(true);
  client.set_keep_alive(true);
  for (int i = 0; i < 3; ++i) {
    const auto answer = client.Post("/v1/rank", kBody + std::string(100'000, ' '), kJson);
    ASSERT_TRUE(answer) << httplib::to_string(answer.error());
    EXPECT_EQ(answer->status, 200);
  }
  // Who does not speak TLS gets nothing, and holds nothing up.
  EXPECT_EQ(Ask(*server, "GET /v2 HTTP/1.1\r\n\r\n").find("HTTP"), std::string::npos);

  EXPECT_THAT(std::string(Refusal({.tls_certificate = certificate}).message()), HasSubstr("both"));
  EXPECT_THAT(std::string(Refusal({.tls_certificate = "/none", .tls_key = key}).message()),
              HasSubstr("/none"));
  EXPECT_THAT(
      std::string(
          Refusal({.tls_certificate = certificate, .tls_key = File("no_key", "x")}).message()),
      HasSubstr("no_key"));
}

TEST_F(HttpServerTest, OpenToOthersOnlyOnPurpose) {
  const absl::Status refused = Refusal({.host = "0.0.0.0"});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("neither TLS nor a token"));
  EXPECT_NE(Start({.host = "0.0.0.0", .insecure = true}), nullptr);
  EXPECT_NE(Start({.host = "0.0.0.0", .token_file = File("token", "0123456789abcdef")}), nullptr);
  EXPECT_NE(Start({.host = "localhost"}), nullptr);
}

TEST_F(HttpServerTest, APortThatIsTakenIsNamed) {
  const auto server = Start();
  const absl::Status refused = Refusal({.port = server->port()});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_EQ(std::string(refused.message()),
            fmt::format("listening at 127.0.0.1 port {}: Address already in use", server->port()));
  EXPECT_THAT(std::string(Refusal({.host = "no such host"}).message()), HasSubstr("no such host"));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal({.port = 70000})));
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal({.threads = 0})));
}

}  // namespace
}  // namespace savior
