// `savior serve`: a scorer over a folder of bundles, by HTTP.
#pragma once

#include <atomic>
#include <ostream>
#include <string>

#include "common/status.h"
#include "serving/http_server.h"

namespace CLI {
class App;
}

namespace savior {

struct ServeArguments {
  std::string dir;
  HttpServerOptions server = {};
  double poll_s = 2;
};

void AddServe(CLI::App& app, ServeArguments& arguments);

// Serves until `stop`, then answers what is under way. Errors: there is nothing to serve, or
// ScoringServer::Start's.
[[nodiscard]] absl::Status RunServe(const ServeArguments& arguments, const std::atomic<bool>& stop,
                                    std::ostream& out);

}  // namespace savior
