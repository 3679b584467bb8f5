#include "serving/scoring_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <latch>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "common/random.h"
#include "tests/serving/fake_scorer.h"

namespace savior {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kInfer = "/v2/models/savior/infer";
constexpr const char* kBody =
    R"({"user": 17, "history": [{"item": 5, "timestamp": 1489990000}], "candidates": [12, 13,
       {"vectors": {"text": [1, 2, 3]}, "features": {"feat_brand": "x"}}]})";
constexpr const char* kInferBody =
    R"({"id": "i", "inputs": [{"name": "item", "datatype": "INT64", "shape": [2], "data": [12, 13]},
       {"name": "feat_brand", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]}]})";

class ScoringServiceTest : public ::testing::Test {
 protected:
  ScoringService Make(ServiceOptions options = {}) {
    options.server_version = "0.1.0";
    return ScoringService(std::move(options), current_, metrics_);
  }

  void Serve(FakeScorer::Before before = {}) {
    current_.Set(std::make_shared<FakeScorer>(7, 0.25F, std::move(before)));
  }

  // The answer as a client sees it.
  static HttpAnswer Ask(ScoringService& service, const std::string& method, const std::string& path,
                        const std::string& body = "",
                        std::map<std::string, std::string> headers = {}) {
    HttpHead head{.method = method, .path = path, .headers = std::move(headers)};
    if (method == "POST") head.headers.emplace("content-length", std::to_string(body.size()));
    auto answer = service.HandleHead(head);
    return answer.has_value() ? *answer : service.Handle(head, body);
  }

  static std::string ErrorOf(const HttpAnswer& answer) {
    EXPECT_EQ(answer.content_type, "application/json");
    const json body = json::parse(answer.body);
    EXPECT_EQ(body.size(), 1u);
    return body.at("error");
  }

  CurrentScorer current_;
  ServingMetrics metrics_;
};

TEST_F(ScoringServiceTest, RankAnswersWithTheVersion) {
  Serve();
  auto service = Make();
  const HttpAnswer answer = Ask(service, "POST", "/v1/rank", kBody);
  ASSERT_EQ(answer.code, 200) << answer.body;
  const json body = json::parse(answer.body);
  EXPECT_EQ(body.at("version"), "000000000007");
  EXPECT_EQ(body.at("p_ctr").get<std::vector<float>>(),
            (std::vector<float>{0.5F, 0.25F, 0.5F / 3}));
  EXPECT_EQ(body.at("p_cvr").size(), 3u);
  EXPECT_EQ(body.at("p_ctcvr").size(), 3u);
}

TEST_F(ScoringServiceTest, TheTimeOfARequestIsNowUnlessItSays) {
  int64_t seen = 0;
  Serve([&](const RankRequest& request) {
    seen = request.timestamp;
    return absl::OkStatus();
  });
  auto service = Make({.now = [] { return 4321; }});
  Ask(service, "POST", "/v1/rank", R"({"candidates": [1]})");
  EXPECT_EQ(seen, 4321);
  Ask(service, "POST", "/v1/rank", R"({"candidates": [1], "timestamp": 7})");
  EXPECT_EQ(seen, 7);
  Ask(service, "POST", kInfer, kInferBody);
  EXPECT_EQ(seen, 4321);
}

TEST_F(ScoringServiceTest, InferAnswersOfEitherPath) {
  Serve();
  auto service = Make();
  for (const char* path : {kInfer, "/v2/models/savior/versions/000000000007/infer"}) {
    const HttpAnswer answer = Ask(service, "POST", path, kInferBody);
    ASSERT_EQ(answer.code, 200) << answer.body;
    const json body = json::parse(answer.body);
    EXPECT_EQ(body.at("id"), "i");
    EXPECT_EQ(body.at("model_version"), "000000000007");
    EXPECT_EQ(body.at("outputs").size(), 3u);
  }
  EXPECT_EQ(ErrorOf(Ask(service, "POST", "/v2/models/savior/versions/8/infer", kInferBody)),
            "version 8: not here; this server has 000000000007");
  EXPECT_EQ(
      Ask(service, "POST", kInfer, kInferBody, {{"inference-header-content-length", "x"}}).code,
      400);
}

TEST_F(ScoringServiceTest, MetadataAndHealth) {
  auto service = Make();
  EXPECT_EQ(Ask(service, "GET", "/v2/health/live").code, 200);
  for (const char* path : {"/v2/health/ready", "/v2/models/savior", "/v2/models/savior/ready"}) {
    const HttpAnswer answer = Ask(service, "GET", path);
    EXPECT_EQ(answer.code, 503) << path;
    EXPECT_EQ(ErrorOf(answer), "no model is loaded yet");
    EXPECT_TRUE(answer.headers.contains("Retry-After"));
  }
  EXPECT_EQ(Ask(service, "POST", "/v1/rank", kBody).code, 503);
  EXPECT_EQ(json::parse(Ask(service, "GET", "/v2").body).at("version"), "0.1.0");
  Serve();
  EXPECT_EQ(Ask(service, "GET", "/v2/health/ready").code, 200);
  EXPECT_EQ(json::parse(Ask(service, "GET", "/v2/models/savior").body).at("versions"),
            json({"000000000007"}));
  EXPECT_EQ(Ask(service, "GET", "/v2/models/savior/versions/000000000007").code, 200);
  EXPECT_EQ(Ask(service, "GET", "/v2/models/savior/versions/000000000007/ready").code, 200);
  EXPECT_EQ(Ask(service, "GET", "/v2/models/savior/versions/9/ready").code, 404);
  service.StopBeingReady();
  EXPECT_EQ(Ask(service, "GET", "/v2/health/ready").code, 503);
  EXPECT_EQ(Ask(service, "GET", "/v2/health/live").code, 200);
  EXPECT_EQ(Ask(service, "POST", "/v1/rank", kBody).code, 200);
}

TEST_F(ScoringServiceTest, UnknownPathsAreToldWhichThereAre) {
  auto service = Make();
  for (const char* path :
       {"/", "/v1", "/v1/rank/", "/v2/models/other", "/v2/models/saviorx",
        "/v2/models/savior/versions/a\nb/ready", "/v2/models/savior/versions/",
        "/v2/models/savior/versions//infer", "/v2/models/savior/config", "/v1/rank\n"}) {
    const HttpAnswer answer = Ask(service, "GET", path);
    EXPECT_EQ(answer.code, 404) << path;
    EXPECT_THAT(ErrorOf(answer), HasSubstr("POST /v1/rank, GET /v2")) << path;
  }
  const std::string version(8000, '1');
  EXPECT_EQ(Ask(service, "POST", "/v2/models/savior/versions/" + version + "/infer").code, 404);
}

TEST_F(ScoringServiceTest, AnotherMethodIsNamed) {
  Serve();
  auto service = Make();
  const HttpAnswer get = Ask(service, "GET", "/v1/rank");
  EXPECT_EQ(get.code, 405);
  EXPECT_EQ(get.headers.at("Allow"), "POST");
  EXPECT_EQ(ErrorOf(get), "GET /v1/rank: must be POST");
  const HttpAnswer post = Ask(service, "POST", "/metrics");
  EXPECT_EQ(post.code, 405);
  EXPECT_EQ(post.headers.at("Allow"), "GET");
  EXPECT_EQ(Ask(service, "DELETE", kInfer).code, 405);
  EXPECT_EQ(Ask(service, "HEAD", "/v2").code, 200);
}

TEST_F(ScoringServiceTest, LengthsAreCheckedBeforeTheBodyIsRead) {
  auto service = Make({.max_body_bytes = 1000});
  const auto head = [&](std::map<std::string, std::string> headers) {
    return service.HandleHead(
        {.method = "POST", .path = "/v1/rank", .headers = std::move(headers)});
  };
  EXPECT_FALSE(head({{"content-length", "1000"}}).has_value());
  EXPECT_FALSE(head({{"transfer-encoding", "chunked"}}).has_value());
  EXPECT_EQ(head({{"content-length", "1001"}})->code, 413);
  EXPECT_EQ(head({{"content-length", "-1"}})->code, 400);
  EXPECT_EQ(head({{"content-length", "3, 4"}})->code, 400);
  EXPECT_EQ(head({{"content-length", "99999999999999999999"}})->code, 400);
  EXPECT_EQ(head({{"content-length", "3"}, {"transfer-encoding", "chunked"}})->code, 400);
  EXPECT_EQ(head({})->code, 411);
}

TEST_F(ScoringServiceTest, OnlyHealthIsOpenWithoutTheToken) {
  Serve();
  const std::string token = "0123456789abcdef";
  auto service = Make({.token = token});
  const auto code = [&](const std::string& method, const std::string& path,
                        const std::string& authorization) {
    return Ask(service, method, path, kBody, {{"authorization", authorization}}).code;
  };
  EXPECT_EQ(code("POST", "/v1/rank", "Bearer " + token), 200);
  for (const std::string& wrong :
       {std::string(), token, "Bearer " + token.substr(1), "Bearer " + token + "0",
        "Basic " + token, std::string("Bearer "), "Bearer " + token + token,
        std::string("Bearer 0123456789abcdeF")}) {
    EXPECT_EQ(code("POST", "/v1/rank", wrong), 401) << wrong;
    EXPECT_EQ(code("GET", "/metrics", wrong), 401) << wrong;
    EXPECT_EQ(code("GET", "/v2", wrong), 401) << wrong;
    EXPECT_EQ(code("GET", "/nowhere", wrong), 401) << wrong;
    EXPECT_EQ(code("GET", "/v2/health/live", wrong), 200) << wrong;
    EXPECT_EQ(code("GET", "/v2/health/ready", wrong), 200) << wrong;
  }
  EXPECT_EQ(Ask(service, "GET", "/v2").headers.at("WWW-Authenticate"), "Bearer");
}

TEST_F(ScoringServiceTest, AScorersErrorsKeepTheirMeaning) {
  auto service = Make();
  const auto answer = [&](const absl::Status& status) {
    Serve([&](const RankRequest&) { return status; });
    return Ask(service, "POST", "/v1/rank", kBody);
  };
  EXPECT_EQ(answer(absl::InvalidArgumentError("x")).code, 400);
  EXPECT_EQ(answer(absl::NotFoundError("x")).code, 404);
  EXPECT_EQ(answer(absl::DeadlineExceededError("x")).code, 504);
  const HttpAnswer busy = answer(absl::ResourceExhaustedError("no memory for this"));
  EXPECT_EQ(busy.code, 503);
  EXPECT_EQ(busy.headers.at("Retry-After"), "1");
  EXPECT_EQ(ErrorOf(busy), "no memory for this");
  const HttpAnswer fault = answer(absl::InternalError("/secret/path"));
  EXPECT_EQ(fault.code, 500);
  EXPECT_THAT(fault.body, Not(HasSubstr("secret")));
}

TEST_F(ScoringServiceTest, NoExceptionLeaks) {
  auto service = Make();
  Serve([](const RankRequest&) -> absl::Status { throw std::runtime_error("/secret/path"); });
  const HttpAnswer answer = Ask(service, "POST", "/v1/rank", kBody);
  EXPECT_EQ(answer.code, 500);
  EXPECT_EQ(ErrorOf(answer), "internal error; the server's log says more");
  Serve([](const RankRequest&) -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(Ask(service, "POST", kInfer, kInferBody).code, 503);
  Serve([](const RankRequest&) -> absl::Status { throw 7; });
  EXPECT_EQ(Ask(service, "POST", kInfer, kInferBody).code, 500);
}

TEST_F(ScoringServiceTest, ScoresThatAreNoneAreOurFault) {
  auto service = Make();
  for (const float bad : {NAN, INFINITY, -0.1F, 1.1F}) {
    current_.Set(std::make_shared<FakeScorer>(7, bad));
    EXPECT_EQ(Ask(service, "POST", "/v1/rank", kBody).code, 500) << bad;
    EXPECT_EQ(Ask(service, "POST", kInfer, kInferBody).code, 500) << bad;
  }
}

TEST_F(ScoringServiceTest, MoreAtOnceThanAllowedAreTurnedAway) {
  std::latch both_in(2), go(1);
  Serve([&](const RankRequest&) {
    both_in.count_down();
    go.wait();
    return absl::OkStatus();
  });
  auto service = Make({.max_concurrent = 2});
  std::vector<std::thread> threads;
  std::atomic<int> ok = 0;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back(
        [&] { ok += Ask(service, "POST", "/v1/rank", kBody).code == 200 ? 1 : 0; });
  }
  both_in.wait();
  const HttpAnswer third = Ask(service, "POST", "/v1/rank", kBody);
  EXPECT_EQ(third.code, 429);
  EXPECT_EQ(third.headers.at("Retry-After"), "1");
  EXPECT_EQ(Ask(service, "GET", "/v2/health/ready").code, 200);  // it is busy, not ill
  EXPECT_THAT(metrics_.Text(), HasSubstr("savior_requests_in_flight 2"));
  go.count_down();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ok, 2);
  Serve();
  EXPECT_EQ(Ask(service, "POST", "/v1/rank", kBody).code, 200);
  EXPECT_THAT(metrics_.Text(), HasSubstr("savior_requests_in_flight 0"));
}

TEST_F(ScoringServiceTest, MetricsCountWhatHappened) {
  Serve();
  auto service = Make();
  Ask(service, "POST", "/v1/rank", kBody);
  metrics_.Answered("rank", 200, 0.003);
  metrics_.Answered("rank", 400, 0.001);
  metrics_.Loaded("000000000006", 6, "abc", 1);
  metrics_.Loaded("000000000007", 7, "abc", 2.5);
  metrics_.LoadFailed();
  const HttpAnswer answer = Ask(service, "GET", "/metrics");
  EXPECT_EQ(answer.content_type, "text/plain; version=0.0.4; charset=utf-8");
  for (const char* line :
       {"savior_requests_total{code=\"200\",endpoint=\"rank\"} 1",
        "savior_requests_total{code=\"400\",endpoint=\"rank\"} 1",
        "savior_request_seconds_bucket{endpoint=\"rank\",le=\"0.002\"} 1",
        "savior_request_seconds_count{endpoint=\"rank\"} 2", "savior_candidates_bucket{le=\"2\"} 0",
        "savior_candidates_bucket{le=\"5\"} 1", "savior_candidates_sum 3", "savior_model_step 7",
        "savior_model_info{codebook=\"abc\",version=\"000000000007\"} 1",
        "savior_reloads_total{result=\"ok\"} 2", "savior_reloads_total{result=\"failed\"} 1",
        "savior_load_seconds 2.5"}) {
    EXPECT_THAT(answer.body, HasSubstr(line));
  }
  EXPECT_THAT(answer.body, Not(HasSubstr("000000000006")));
}

TEST_F(ScoringServiceTest, PathsOfStrangersMakeNoNewSeries) {
  EXPECT_EQ(ScoringService::EndpointName("/v2/models/savior/versions/x/infer"), "infer");
  EXPECT_EQ(ScoringService::EndpointName("/v2/models/savior/versions/x"), "metadata");
  EXPECT_EQ(ScoringService::EndpointName("/v2/health/ready"), "health");
  EXPECT_EQ(ScoringService::EndpointName("/wp-admin"), "other");
}

// Never a crash, never our fault.
TEST_F(ScoringServiceTest, MutatedBodiesGet200Or400) {
  Serve();
  auto service = Make();
  constexpr uint64_t kSeed = 17;
  Random random(kSeed);
  int taken = 0;
  for (int i = 0; i < 6000; ++i) {
    const bool infer = i % 2 == 1;
    std::string body = infer ? kInferBody : kBody;
    for (uint64_t edits = 1 + random.Below(3); edits > 0 && !body.empty(); --edits) {
      const size_t at = random.Below(body.size());
      if (random.Below(3) == 0) {
        body.erase(at, 1 + random.Below(8));
      } else if (random.Below(2) == 0) {
        body.insert(at, body.substr(random.Below(body.size()), random.Below(40)));
      } else {
        body[at] = static_cast<char>(random.Below(128));
      }
    }
    const HttpAnswer answer = Ask(service, "POST", infer ? kInfer : "/v1/rank", body);
    EXPECT_TRUE(answer.code == 200 || answer.code == 400)
        << "seed " << kSeed << ": " << answer.code << " for " << body;
    EXPECT_TRUE(json::accept(answer.body)) << "seed " << kSeed << ": " << answer.body;
    taken += answer.code == 200 ? 1 : 0;
  }
  EXPECT_GT(taken, 20);
}

}  // namespace
}  // namespace savior
