#include "launcher/serve_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <thread>

#include "common/clock.h"
#include "common/digest_cache.h"
#include "serving/bundle.h"
#include "serving/bundle_scorer.h"
#include "serving/bundle_watcher.h"
#include "serving/current_scorer.h"
#include "serving/serving_metrics.h"

namespace savior {

void AddServe(CLI::App& app, ServeArguments& a) {
  CLI::App* command = app.add_subcommand("serve", "Ranks candidates over HTTP, from a bundle");
  command->footer(
      "Examples:\n"
      "  savior serve bundles --port 8000\n"
      "  curl -d '{\"user\": 17, \"candidates\": [12, 13]}' localhost:8000/v1/rank\n"
      "New bundles and deltas in the folder are loaded while it serves. docs/serving.md");
  command->add_option("dir", a.dir, "Folder of bundles (savior export --out)")->required();
  HttpServerOptions& s = a.server;
  s.port = 8000;
  command->add_option("--host", s.host,
                      "Address to listen on; others than this machine's take TLS "
                      "or a token");
  command->add_option("--port", s.port, "0: any free one, which is printed")
      ->check(CLI::Range(0, 65535));
  command->add_option("--threads", s.threads, "Connections served at once")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--max-concurrent", s.service.max_concurrent,
                   "Requests scored at once; more get 429")
      ->check(CLI::Range(1, 4096));
  command->add_option("--max-candidates", s.service.limits.candidates, "Of a request")
      ->check(CLI::Range(1, 1'000'000));
  command->add_option("--max-body-mb", s.service.max_body_bytes, "Of a request, in MiB")
      ->transform([](const std::string& mb) {
        // A number, or CLI11's own check says so.
        char* end = nullptr;
        const long value = std::strtol(mb.c_str(), &end, 10);
        return *end == '\0' && value > 0 ? std::to_string(value << 20) : mb;
      });
  command->add_option("--tls-certificate", s.tls_certificate, "PEM file");
  command->add_option("--tls-key", s.tls_key, "PEM file");
  command->add_option("--token-file", s.token_file, "Requests must carry its token as a bearer's");
  command->add_flag("--insecure", s.insecure, "Listen to others without TLS and token");
  command->add_option("--poll-s", a.poll_s, "Seconds between looks for a new bundle")
      ->check(CLI::Range(0.05, 3600.0));
}

absl::Status RunServe(const ServeArguments& a, const std::atomic<bool>& stop, std::ostream& out) {
  CurrentScorer current;
  ServingMetrics metrics;
  DigestCache known(DigestCache::Links::kNone);
  BundleWatcher watcher(
      {.poll_s = a.poll_s}, [&a] { return CurrentBundle(a.dir); },
      [&]() -> absl::StatusOr<std::shared_ptr<const Scorer>> {
        SAVIOR_ASSIGN_OR_RETURN(const std::string name, CurrentBundle(a.dir));
        return LoadScorer(a.dir, name, /*digests=*/true, &known);
      },
      current, metrics);
  SAVIOR_RETURN_IF_ERROR(watcher.Poll(SteadyClock::now()).status());
  HttpServerOptions options = a.server;
  options.service.server_version = SAVIOR_VERSION;
  SAVIOR_ASSIGN_OR_RETURN(const auto server, ScoringServer::Start(options, current, metrics));
  watcher.Start();
  out << fmt::format("serving bundle {} at {}\n", current.Get()->card().version, server->url())
      << std::flush;
  while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  out << "stopping: answering what is under way\n" << std::flush;
  server->Stop();
  watcher.Stop();
  return absl::OkStatus();
}

}  // namespace savior
