// The HTTP interface of a scorer, without HTTP's bytes: which request gets which answer. Sockets,
// TLS and the parsing of heads are serving/http_server.h's.
//
//   POST /v1/rank                                         serving/rank_json.h
//   GET  /v2, /v2/health/live, /v2/health/ready           serving/inference_protocol.h
//   GET  /v2/models/savior[/versions/V][/ready]
//   POST /v2/models/savior[/versions/V]/infer
//   GET  /metrics                                         serving/serving_metrics.h
//
// Every error's body is {"error": "what, where"}. 400: the request is wrong; 401: no or another
// token; 404: no such path (they are listed) or version; 405; 411: a body without
// Content-Length; 413: the body is too large; 429: more
// requests at once than max_concurrent; 500: our fault, details in the log only; 503: no model yet,
// out of resources, or stopping. 429 and 503 come with Retry-After.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "serving/current_scorer.h"
#include "serving/rank_request.h"
#include "serving/serving_metrics.h"

namespace savior {

struct ServiceOptions {
  RankLimits limits = {};
  int64_t max_body_bytes = 8 << 20;
  int64_t max_concurrent = 32;      // requests that are scored at the same time
  std::string token = {};           // "": none is asked for. The health endpoints never ask
  std::string server_version = {};  // in GET /v2
  // Unix seconds: the time of a request that names none. Not set: the system's clock.
  std::function<int64_t()> now = {};
};

struct HttpHead {
  std::string method;  // "GET"
  std::string path;    // decoded, without the query
  // Names in lower case.
  std::map<std::string, std::string> headers;
};

struct HttpAnswer {
  int code = 200;
  std::string body = {};
  std::string content_type = "application/json";
  std::map<std::string, std::string> headers = {};
};

// {"error": `message`}.
HttpAnswer ErrorAnswer(int code, std::string_view message);

// Thread-safe. Nothing throws. `current` and `metrics` outlive it.
class ScoringService {
 public:
  ScoringService(ServiceOptions options, const CurrentScorer& current, ServingMetrics& metrics);

  // Answers from the head alone, if that is possible: refusals (a body that is too large is never
  // read), and everything that is not a POST. None: read the body, then call Handle.
  std::optional<HttpAnswer> HandleHead(const HttpHead& head);

  // A POST that HandleHead let through.
  HttpAnswer Handle(const HttpHead& head, std::string_view body);

  // From now on /v2/health/ready says 503, so that balancers turn away; all else goes on.
  void StopBeingReady() { stopping_ = true; }

  // "rank", "infer", "metadata", "health", "metrics" or "other": for metrics, which must not have
  // as many series as there are paths.
  static std::string_view EndpointName(std::string_view path);

  const ServiceOptions& options() const { return options_; }

 private:
  struct Route;
  static std::optional<Route> FindRoute(std::string_view path);

  bool Authorized(const HttpHead& head) const;
  std::optional<HttpAnswer> CheckLength(const HttpHead& head) const;
  HttpAnswer Get(const Route& route) const;
  HttpAnswer Rank(const Scorer& scorer, std::string_view body) const;
  HttpAnswer Infer(const Scorer& scorer, const HttpHead& head, std::string_view body) const;
  absl::StatusOr<RankScores> Score(const Scorer& scorer, const RankRequest& request) const;
  int64_t Now() const;

  const ServiceOptions options_;
  const CurrentScorer& current_;
  ServingMetrics& metrics_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int64_t> in_flight_ = 0;
};

}  // namespace savior
