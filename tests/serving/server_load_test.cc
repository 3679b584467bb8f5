// Many clients at once: what none of them may notice.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "serving/http_server.h"
#include "tests/serving/fake_scorer.h"

namespace savior {
namespace {

using nlohmann::json;

constexpr const char* kBody = R"({"candidates": [12, 13, 14]})";
constexpr int kClients = 6;

std::unique_ptr<ScoringServer> Start(const CurrentScorer& current, ServingMetrics& metrics,
                                     HttpServerOptions options = {}) {
  auto server = ScoringServer::Start(std::move(options), current, metrics);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

std::unique_ptr<httplib::Client> NewClient(int port) {
  auto client = std::make_unique<httplib::Client>("127.0.0.1", port);
  client->set_keep_alive(true);
  client->set_read_timeout(60);
  return client;
}

TEST(ServerLoad, ASwapFailsNoRequestAndMixesNoVersions) {
  CurrentScorer current;
  ServingMetrics metrics;
  const auto scorer = [](int step) {  // its answers say by whom they are
    return std::make_shared<FakeScorer>(step, static_cast<float>(step % 256) / 256.0F);
  };
  current.Set(scorer(1));
  const auto server = Start(current, metrics, {.threads = kClients});
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0, failed = 0, versions_seen = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      auto client = NewClient(server->port());
      std::string last;
      while (!stop) {
        const auto answer = client->Post("/v1/rank", kBody, "application/json");
        if (!answer || answer->status != 200) {
          ++failed;
          continue;
        }
        ++answered;
        const json body = json::parse(answer->body);
        const std::string version = body.at("version");
        const float expected = static_cast<float>(std::stoi(version) % 256) / 256.0F;
        for (const float p_cvr : body.at("p_cvr")) failed += p_cvr == expected ? 0 : 1;
        versions_seen += version == last ? 0 : 1;
        last = version;
      }
    });
  }
  // Not by the clock: each swap waits for answers of the one before.
  for (int step = 2; step < 60; ++step) {
    const int before = answered;
    while (answered < before + kClients && failed == 0) std::this_thread::yield();
    current.Set(scorer(step));
  }
  stop = true;
  for (auto& client : clients) client.join();
  EXPECT_EQ(failed, 0);
  EXPECT_GT(versions_seen, 60);
}

// From the first byte of a request that reached us to the last of its answer, Stop waits.
TEST(ServerLoad, AStopAnswersEveryRequestThatIsUnderWay) {
  CurrentScorer current;
  ServingMetrics metrics;
  std::latch all_in(kClients), go(1);
  current.Set(std::make_shared<FakeScorer>(1, 0.25F, [&](const RankRequest&) {
    all_in.count_down();
    go.wait();
    return absl::OkStatus();
  }));
  const auto server = Start(current, metrics, {.drain_s = 0});
  std::atomic<int> ok = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      const auto answer = NewClient(server->port())->Post("/v1/rank", kBody, "application/json");
      ok += answer && answer->status == 200 ? 1 : 0;
    });
  }
  all_in.wait();
  std::thread stop([&] { server->Stop(); });
  // The listener goes first: others are refused while those are answered.
  while (NewClient(server->port())->Get("/v2/health/live")) std::this_thread::yield();
  EXPECT_EQ(ok, 0);
  go.count_down();
  stop.join();
  for (auto& client : clients) client.join();
  EXPECT_EQ(ok, kClients);
}

TEST(ServerLoad, AStopAnswersOneMoreRequestOfEachConnection) {
  CurrentScorer current;
  ServingMetrics metrics;
  current.Set(std::make_shared<FakeScorer>(1));
  const auto server = Start(current, metrics, {.drain_s = 600});
  auto client = NewClient(server->port());
  ASSERT_EQ(client->Post("/v1/rank", kBody, "application/json")->status, 200);
  std::thread stop([&] { server->Stop(); });
  while (NewClient(server->port())->Get("/v2/health/live")) std::this_thread::yield();
  // Far longer than the server looks at a connection at a time.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const auto last = client->Post("/v1/rank", kBody, "application/json");
  stop.join();
  ASSERT_TRUE(last) << httplib::to_string(last.error());
  EXPECT_EQ(last->status, 200);
  EXPECT_EQ(last->get_header_value("Connection"), "close");
}

TEST(ServerLoad, AStopDoesNotWaitForIdleConnections) {
  CurrentScorer current;
  ServingMetrics metrics;
  current.Set(std::make_shared<FakeScorer>(1));
  const auto server = Start(current, metrics, {.idle_timeout_s = 3600, .drain_s = 0.1});
  auto client = NewClient(server->port());
  ASSERT_EQ(client->Post("/v1/rank", kBody, "application/json")->status, 200);
  server->Stop();  // else the test runs into its timeout
}

// Who is told to close comes again at once. It must find nobody: a connection that the system takes
// and nobody accepts would be reset under its request.
TEST(ServerLoad, WhoIsToldToCloseFindsNobodyListening) {
  CurrentScorer current;
  ServingMetrics metrics;
  current.Set(std::make_shared<FakeScorer>(1));
  constexpr int kRounds = 60;
  std::atomic<int> told = 0, found = 0;
  for (int round = 0; round < kRounds; ++round) {
    auto server = Start(current, metrics, {.threads = 4, .drain_s = 60});
    std::atomic<int> answered = 0;
    // One connection: with several, some are told to close while another waits for a thread.
    std::thread asking([&] {
      auto client = NewClient(server->port());
      while (const auto answer = client->Get("/v2/health/live")) {
        ++answered;
        if (answer->get_header_value("Connection") != "close") continue;
        ++told;
        const auto again = client->Get("/v2/health/live");
        found += !again && again.error() == httplib::Error::Connection ? 0 : 1;
        return;
      }
    });
    while (answered < 20) std::this_thread::yield();
    server->Stop();
    asking.join();
  }
  EXPECT_GT(told, kRounds / 2);
  EXPECT_EQ(found, 0);
}

TEST(ServerLoad, AStopUnderLoadDropsNothing) {
  CurrentScorer current;
  ServingMetrics metrics;
  current.Set(std::make_shared<FakeScorer>(1));
  for (int round = 0; round < 3; ++round) {
    auto server = Start(current, metrics, {.threads = kClients, .drain_s = 60});
    std::atomic<int> answered = 0, dropped = 0;
    std::vector<std::thread> clients;
    for (int i = 0; i < kClients; ++i) {
      clients.emplace_back([&] {
        auto client = NewClient(server->port());
        while (true) {
          const auto answer = client->Post("/v1/rank", kBody, "application/json");
          if (!answer) {
            // Only that nobody listens any more is no loss.
            dropped += answer.error() == httplib::Error::Connection ? 0 : 1;
            return;
          }
          dropped += answer->status == 200 ? 0 : 1;
          ++answered;
          if (answer->get_header_value("Connection") == "close") return;
        }
      });
    }
    while (answered < 20 * kClients) std::this_thread::yield();
    server->Stop();
    server->Stop();  // again: nothing
    for (auto& client : clients) client.join();
    EXPECT_EQ(dropped, 0) << "round " << round;
  }
}

TEST(ServerLoad, BeyondTheLimitIs429AndTheRestIsServed) {
  CurrentScorer current;
  ServingMetrics metrics;
  std::latch in(1), go(1);
  std::atomic<bool> first = true;
  current.Set(std::make_shared<FakeScorer>(1, 0.25F, [&](const RankRequest&) {
    if (first.exchange(false)) {
      in.count_down();
      go.wait();
    }
    return absl::OkStatus();
  }));
  const auto server = Start(current, metrics, {.service = {.max_concurrent = 1}});
  std::thread slow([&] {
    EXPECT_EQ(NewClient(server->port())->Post("/v1/rank", kBody, "application/json")->status, 200);
  });
  in.wait();
  auto client = NewClient(server->port());
  for (int i = 0; i < 5; ++i) {
    const auto answer = client->Post("/v1/rank", kBody, "application/json");
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 429);
    EXPECT_EQ(answer->get_header_value("Retry-After"), "1");
    EXPECT_EQ(client->Get("/v2/health/ready")->status, 200);
  }
  go.count_down();
  slow.join();
  EXPECT_EQ(client->Post("/v1/rank", kBody, "application/json")->status, 200);
}

}  // namespace
}  // namespace savior
