#include "serving/scoring_service.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/time/clock.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "serving/inference_protocol.h"
#include "serving/json_text.h"
#include "serving/rank_json.h"

namespace savior {
namespace {

constexpr std::string_view kPaths =
    "POST /v1/rank, GET /v2, GET /v2/health/live, GET /v2/health/ready, GET /v2/models/savior, "
    "GET /v2/models/savior/ready, POST /v2/models/savior/infer, the same three under "
    "/v2/models/savior/versions/VERSION, GET /metrics";
constexpr std::string_view kJsonBytes = "inference-header-content-length";

// To a client of HTTP 429 and 503: soon. A request takes milliseconds.
HttpAnswer Later(int code, std::string_view message) {
  HttpAnswer answer = ErrorAnswer(code, message);
  answer.headers.emplace("Retry-After", "1");
  return answer;
}

HttpAnswer NoModel() { return Later(503, "no model is loaded yet"); }

// What is our fault is not the client's to read: only the log has it.
HttpAnswer OwnFault(std::string_view what) {
  LOG(ERROR) << "serving: a request failed: " << what;
  return ErrorAnswer(500, "internal error; the server's log says more");
}

HttpAnswer AnswerOf(const absl::Status& status) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return ErrorAnswer(400, message);
    case absl::StatusCode::kNotFound:
      return ErrorAnswer(404, message);
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      return Later(503, message);
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorAnswer(504, message);
    default:
      return OwnFault(status.ToString());
  }
}

// Takes as long for any `given` of the same length.
bool SameSecret(std::string_view given, std::string_view secret) {
  volatile unsigned char difference = given.size() == secret.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char expected = secret[i % secret.size()];
    difference = static_cast<unsigned char>(difference | (given[i] ^ expected));
  }
  return difference == 0;
}

std::string_view HeaderOf(const HttpHead& head, const std::string& name) {
  const auto found = head.headers.find(name);
  return found == head.headers.end() ? std::string_view() : std::string_view(found->second);
}

bool AreProbabilities(const std::vector<float>& scores, size_t candidates) {
  for (const float score : scores) {
    if (!(score >= 0 && score <= 1)) return false;
  }
  return scores.size() == candidates;
}

// Whether a path's part may name a version at all: no more of it is handed on.
bool IsVersion(std::string_view text) {
  const auto fits = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, fits);
}

// Counts a request while it lives.
class Slot {
 public:
  Slot(std::atomic<int64_t>& in_flight, int64_t most, ServingMetrics& metrics)
      : in_flight_(in_flight), metrics_(metrics), free_(in_flight.fetch_add(1) < most) {
    metrics_.InFlight(1);
  }
  ~Slot() {
    in_flight_.fetch_sub(1);
    metrics_.InFlight(-1);
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  bool free() const { return free_; }

 private:
  std::atomic<int64_t>& in_flight_;
  ServingMetrics& metrics_;
  const bool free_;
};

}  // namespace

HttpAnswer ErrorAnswer(int code, std::string_view message) {
  HttpAnswer answer;
  answer.code = code;
  answer.body = fmt::format(R"({{"error":{}}})", JsonString(message));
  return answer;
}

struct ScoringService::Route {
  enum class Kind { kRank, kInfer, kServer, kModel, kModelReady, kLive, kReady, kMetrics };
  Kind kind = Kind::kServer;
  std::string_view version = {};  // of the path; "": any
  bool post() const { return kind == Kind::kRank || kind == Kind::kInfer; }
  bool open() const { return kind == Kind::kLive || kind == Kind::kReady; }
};

ScoringService::ScoringService(ServiceOptions options, const CurrentScorer& current,
                               ServingMetrics& metrics)
    : options_(std::move(options)), current_(current), metrics_(metrics) {}

std::optional<ScoringService::Route> ScoringService::FindRoute(std::string_view path) {
  using Kind = Route::Kind;
  if (path == "/v1/rank") return Route{.kind = Kind::kRank};
  if (path == "/v2" || path == "/v2/") return Route{.kind = Kind::kServer};
  if (path == "/v2/health/live") return Route{.kind = Kind::kLive};
  if (path == "/v2/health/ready") return Route{.kind = Kind::kReady};
  if (path == "/metrics") return Route{.kind = Kind::kMetrics};
  constexpr std::string_view model = "/v2/models/savior", versions = "/versions/";
  if (!path.starts_with(model)) return std::nullopt;
  path.remove_prefix(model.size());
  Route route;
  if (path.starts_with(versions)) {
    path.remove_prefix(versions.size());
    route.version = path.substr(0, path.find('/'));
    path.remove_prefix(route.version.size());
    if (!IsVersion(route.version)) return std::nullopt;
  }
  if (path.empty()) {
    route.kind = Kind::kModel;
  } else if (path == "/ready") {
    route.kind = Kind::kModelReady;
  } else if (path == "/infer") {
    route.kind = Kind::kInfer;
  } else {
    return std::nullopt;
  }
  return route;
}

std::string_view ScoringService::EndpointName(std::string_view path) {
  using Kind = Route::Kind;
  const auto route = FindRoute(path);
  if (!route.has_value()) return "other";
  switch (route->kind) {
    case Kind::kRank:
      return "rank";
    case Kind::kInfer:
      return "infer";
    case Kind::kMetrics:
      return "metrics";
    case Kind::kLive:
    case Kind::kReady:
    case Kind::kModelReady:
      return "health";
    default:
      return "metadata";
  }
}

bool ScoringService::Authorized(const HttpHead& head) const {
  if (options_.token.empty()) return true;
  std::string_view given = HeaderOf(head, "authorization");
  constexpr std::string_view scheme = "Bearer ";
  if (!given.starts_with(scheme)) return false;
  return SameSecret(given.substr(scheme.size()), options_.token);
}

std::optional<HttpAnswer> ScoringService::HandleHead(const HttpHead& head) {
  const auto route = FindRoute(head.path);
  if (!(route.has_value() && route->open()) && !Authorized(head)) {
    HttpAnswer answer = ErrorAnswer(401, "this server asks for a token: Authorization: Bearer ...");
    answer.headers.emplace("WWW-Authenticate", "Bearer");
    return answer;
  }
  if (!route.has_value()) {
    return ErrorAnswer(404, fmt::format("{}: no such path; there are {}", Clip(head.path), kPaths));
  }
  const bool fits =
      route->post() ? head.method == "POST" : head.method == "GET" || head.method == "HEAD";
  if (!fits) {
    const char* wanted = route->post() ? "POST" : "GET";
    HttpAnswer answer = ErrorAnswer(
        405, fmt::format("{} {}: must be {}", Clip(head.method), Clip(head.path), wanted));
    answer.headers.emplace("Allow", wanted);
    return answer;
  }
  if (!route->post()) return Get(*route);
  return CheckLength(head);
}

std::optional<HttpAnswer> ScoringService::CheckLength(const HttpHead& head) const {
  const bool chunked = head.headers.contains("transfer-encoding");
  // Both: two readers of the same bytes may see two different requests (RFC 9112, 6.3).
  if (chunked && head.headers.contains("content-length")) {
    return ErrorAnswer(400, "both Content-Length and Transfer-Encoding: must be one of them");
  }
  if (chunked) return std::nullopt;
  if (!head.headers.contains("content-length")) {
    return ErrorAnswer(411, "Content-Length: missing");
  }
  int64_t bytes = 0;
  const std::string length(HeaderOf(head, "content-length"));
  const bool digits = length.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || !absl::SimpleAtoi(length, &bytes))
    return ErrorAnswer(400, "Content-Length: must be an integer >= 0");
  if (bytes > options_.max_body_bytes) {
    return ErrorAnswer(413, fmt::format("the body: {} bytes, this server takes {}", bytes,
                                        options_.max_body_bytes));
  }
  return std::nullopt;
}

HttpAnswer ScoringService::Get(const Route& route) const {
  using Kind = Route::Kind;
  if (route.kind == Kind::kLive) return {.body = R"({"live":true})"};
  if (route.kind == Kind::kMetrics) {
    return {.body = metrics_.Text(), .content_type = "text/plain; version=0.0.4; charset=utf-8"};
  }
  if (route.kind == Kind::kServer) return {.body = ServerMetadata(options_.server_version)};
  const std::shared_ptr<const Scorer> scorer = current_.Get();
  if (route.kind == Kind::kReady) {
    if (stopping_) return Later(503, "the server is stopping");
    return scorer == nullptr ? NoModel() : HttpAnswer{.body = R"({"ready":true})"};
  }
  if (scorer == nullptr) return NoModel();
  const ModelCard& card = scorer->card();
  if (!route.version.empty() && route.version != card.version) {
    return ErrorAnswer(404, fmt::format("version {}: not here; this server has {}",
                                        Clip(route.version), card.version));
  }
  if (route.kind == Kind::kModel) return {.body = ModelMetadata(card)};
  return {.body = fmt::format(R"({{"name":"{}","ready":true}})", kModelName)};
}

HttpAnswer ScoringService::Handle(const HttpHead& head, std::string_view body) {
  try {
    const auto route = FindRoute(head.path);
    if (!route.has_value() || !route->post()) return OwnFault("no route for " + Clip(head.path));
    const Slot slot(in_flight_, options_.max_concurrent, metrics_);
    if (!slot.free()) {
      return Later(429, fmt::format("{} requests are being scored, which is all that this server "
                                    "does at once; try again",
                                    options_.max_concurrent));
    }
    // Held to the end: the whole answer is one version's.
    const std::shared_ptr<const Scorer> scorer = current_.Get();
    if (scorer == nullptr) return NoModel();
    const std::string& version = scorer->card().version;
    if (!route->version.empty() && route->version != version) {
      return ErrorAnswer(404, fmt::format("version {}: not here; this server has {}",
                                          Clip(route->version), version));
    }
    return route->kind == Route::Kind::kRank ? Rank(*scorer, body) : Infer(*scorer, head, body);
  } catch (const std::bad_alloc&) {
    return Later(503, "out of memory");
  } catch (const std::exception& e) {
    return OwnFault(e.what());
  } catch (...) {
    return OwnFault("an exception of unknown type");
  }
}

HttpAnswer ScoringService::Rank(const Scorer& scorer, std::string_view body) const {
  const auto request = ParseRankRequest(body, options_.limits, Now());
  if (!request.ok()) return AnswerOf(request.status());
  const auto scores = Score(scorer, *request);
  if (!scores.ok()) return AnswerOf(scores.status());
  return {.body = RankScoresJson(*scores, scorer.card().version)};
}

HttpAnswer ScoringService::Infer(const Scorer& scorer, const HttpHead& head,
                                 std::string_view body) const {
  std::optional<size_t> json_bytes;
  if (const std::string_view text = HeaderOf(head, std::string(kJsonBytes)); !text.empty()) {
    uint64_t bytes = 0;
    if (!absl::SimpleAtoi(std::string(text), &bytes)) {
      return ErrorAnswer(
          400, fmt::format("Inference-Header-Content-Length: {}, must be an integer", Clip(text)));
    }
    json_bytes = bytes;
  }
  const auto request = ParseInferRequest(body, json_bytes, options_.limits, Now());
  if (!request.ok()) return AnswerOf(request.status());
  const auto scores = Score(scorer, request->rank);
  if (!scores.ok()) return AnswerOf(scores.status());
  InferResponse response = MakeInferResponse(*scores, *request, scorer.card().version);
  HttpAnswer answer{.body = std::move(response.body)};
  if (response.json_bytes.has_value()) {
    answer.content_type = "application/octet-stream";
    answer.headers["Inference-Header-Content-Length"] = std::to_string(*response.json_bytes);
  }
  return answer;
}

absl::StatusOr<RankScores> ScoringService::Score(const Scorer& scorer,
                                                 const RankRequest& request) const {
  SAVIOR_ASSIGN_OR_RETURN(RankScores scores, scorer.Rank(request));
  const size_t candidates = request.candidates.size();
  for (const auto* values : {&scores.p_ctr, &scores.p_cvr, &scores.p_ctcvr}) {
    if (!AreProbabilities(*values, candidates)) {
      return absl::InternalError(fmt::format("version {}: its scores are not {} numbers in [0, 1]",
                                             scorer.card().version, candidates));
    }
  }
  metrics_.Scored(candidates);
  return scores;
}

int64_t ScoringService::Now() const {
  return options_.now ? options_.now() : absl::ToUnixSeconds(absl::Now());
}

}  // namespace savior
