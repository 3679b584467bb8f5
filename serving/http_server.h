// The server of `savior serve`: ScoringService over HTTP/1.1, with or without TLS.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"
#include "serving/current_scorer.h"
#include "serving/scoring_service.h"
#include "serving/serving_metrics.h"

namespace savior {

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // a name or an address; "0.0.0.0", "::": all of the machine
  int port = 0;                    // 0: any that is free
  // Connections that are served at once, each by a thread of its own; more wait for one of them to
  // close (which answers then ask for), and beyond max_waiting they are refused with 503.
  int threads = 64;
  int max_waiting = 256;
  double request_timeout_s = 10;  // for a request to come in, from its first byte to its last
  double answer_timeout_s = 10;   // for an answer to go out
  double idle_timeout_s = 60;     // between the requests of a connection
  double crowded_idle_s = 1;      // the same, while others wait for its thread
  // Stop's patience with connections that are between two requests: one that comes in this time
  // is answered, and told that it was the last.
  double drain_s = 1;
  std::string tls_certificate = {}, tls_key = {};  // PEM files; both or none
  std::string token_file = {};                     // holds the bearer token; "": none is asked for
  // Without this, an address that others can reach takes TLS or a token.
  bool insecure = false;
  ServiceOptions service = {};  // `token` is overridden by token_file
};

// The token of a file: its text without spaces and line ends around it. kInvalidArgument if there
// is none, or fewer than 16 characters, or any that a header cannot hold.
[[nodiscard]] absl::StatusOr<std::string> ReadToken(const std::string& path);

// Thread-safe. A process that has one ignores SIGPIPE.
class ScoringServer {
 public:
  // Listens and serves when it returns. `current` and `metrics` outlive it. kInvalidArgument: an
  // option, the certificate or the token; kFailedPrecondition: the port is taken, or the address is
  // open to others without protection.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<ScoringServer>> Start(
      HttpServerOptions options, const CurrentScorer& current, ServingMetrics& metrics);
  ~ScoringServer();  // stops
  ScoringServer(const ScoringServer&) = delete;
  ScoringServer& operator=(const ScoringServer&) = delete;

  int port() const;
  std::string url() const;  // "https://127.0.0.1:8000"

  // Refuses new connections, answers every request of those it has, returns when all are closed: in
  // drain_s, unless a request takes longer to come in, to score and to go out. Idempotent.
  void Stop();

 private:
  class Impl;  // cpp-httplib is in the .cc only
  explicit ScoringServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace savior
