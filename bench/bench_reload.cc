// What do clients notice when a server loads another bundle? A small model is trained and its
// commits are exported: a full bundle and deltas. A server of this process ranks golden requests
// for clients that send at a fixed rate, each answer timed from when its request was due. Rounds
// without and with reloads take turns; with them, one load follows the other without a pause, which
// is far more than a bundle a minute. Loads and answers share the machine's cores.
#include <fmt/format.h>
#include <glog/logging.h>
#include <httplib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <thread>

#include "bench/harness.h"
#include "bench/training_jobs.h"
#include "launcher/bundle_export.h"
#include "launcher/commit.h"
#include "launcher/run_commands.h"
#include "serving/bundle_scorer.h"
#include "serving/bundle_watcher.h"
#include "serving/http_server.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Sizes {
  int64_t bundles = 5, steps = 40;  // between bundles
  int64_t clients = 2;
  double per_s = 50;  // requests, of a client
  int64_t rounds = 20;
};

// Trains, and exports what it committed into <folder>/bundles. Their names.
std::vector<std::string> MakeBundles(const fs::path& folder, const Sizes& sizes, bool tiny) {
  Config config = TrainingDataSets(folder, folder.string(), tiny).back().config;
  config.run.dir = (folder / "run").string();
  config.train.max_steps = sizes.bundles * sizes.steps;
  config.commit.every_steps = sizes.steps;
  config.commit.keep = sizes.bundles;
  std::ostringstream out;
  CheckOk(Train(config, {}, out).status());
  std::vector<std::string> names;
  ExportOptions options{.from = {}, .out = folder / "bundles"};
  for (const fs::path& commit : ListCommits(folder / "run" / "commits")) {
    options.from = commit;
    const auto bundle = ExportBundle(options);
    CheckOk(bundle.status());
    names.push_back(bundle->version());
    options.since = bundle->manifest.step;
  }
  return names;
}

// POST bodies of a bundle's golden requests.
std::vector<std::string> Bodies(const fs::path& bundle) {
  const auto text = ReadFile(bundle / kBundleGolden);
  CheckOk(text.status());
  std::vector<std::string> bodies;
  const auto golden_requests = nlohmann::json::parse(*text);
  for (const auto& golden : golden_requests.at("requests")) {
    bodies.push_back(golden.at("request").dump());
  }
  return bodies;
}

struct Times {
  std::vector<double> quiet_ms, reloading_ms;
  int64_t failed = 0;
};

// One client, until `stop`. A late answer delays the next requests, and counts for them, too.
Times Ask(int port, const std::vector<std::string>& bodies, double per_s, double start,
          const std::atomic<bool>& reloading, const std::atomic<bool>& stop) {
  Times times;
  httplib::Client http("127.0.0.1", port);
  http.set_keep_alive(true);
  for (size_t i = 0; !stop; ++i) {
    const double due = start + static_cast<double>(i) / per_s;
    if (const double wait = due - NowSeconds(); wait > 0) {
      std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    }
    const bool during = reloading;
    const auto answer = http.Post("/v1/rank", bodies[i % bodies.size()], "application/json");
    times.failed += answer && answer->status == 200 ? 0 : 1;
    (during ? times.reloading_ms : times.quiet_ms).push_back(1e3 * (NowSeconds() - due));
  }
  return times;
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  BenchReport report("bench_reload",
                     fmt::format("{} clients send {} requests a second each; {} rounds of {} s "
                                 "without and with loads in turn; ms from when a request was due",
                                 sizes.clients, sizes.per_s, sizes.rounds, flags.seconds),
                     flags);
  const fs::path folder = fs::temp_directory_path() / fmt::format("savior-reload-{}", getpid());
  const std::vector<std::string> names = MakeBundles(folder, sizes, flags.smoke);
  const fs::path dir = folder / "bundles";

  CurrentScorer current;
  ServingMetrics metrics;
  std::atomic<size_t> newest = 0;
  const auto name = [&] { return names[newest % names.size()]; };
  BundleWatcher watcher(
      {.poll_s = 0.001}, name, [&] { return LoadScorer(dir, name(), true); }, current, metrics);
  CheckOk(watcher.Poll(SteadyClock::now()).status());
  const auto server = ScoringServer::Start({}, current, metrics);
  CheckOk(server.status());
  watcher.Start();

  std::atomic<bool> reloading = false, stop = false;
  const std::vector<std::string> bodies = Bodies(dir / name());
  std::vector<Times> of(static_cast<size_t>(sizes.clients));
  std::vector<std::thread> clients;
  const double start = NowSeconds();
  for (size_t c = 0; c < of.size(); ++c) {
    const double own =
        start + static_cast<double>(c) / (sizes.per_s * static_cast<double>(of.size()));
    clients.emplace_back(
        [&, c, own] { of[c] = Ask((*server)->port(), bodies, sizes.per_s, own, reloading, stop); });
  }
  std::vector<double> load_ms;
  for (int64_t round = 0; round < sizes.rounds; ++round) {
    reloading = false;
    std::this_thread::sleep_for(std::chrono::duration<double>(flags.seconds));
    reloading = true;
    const double until = NowSeconds() + flags.seconds;
    do {
      const double begin = NowSeconds();
      ++newest;
      while (current.Get()->card().version != name()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      load_ms.push_back(1e3 * (NowSeconds() - begin));
    } while (NowSeconds() < until);
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  (*server)->Stop();
  watcher.Stop();
  std::error_code ignored;
  fs::remove_all(folder, ignored);

  Times all;
  for (const Times& times : of) {
    all.quiet_ms.insert(all.quiet_ms.end(), times.quiet_ms.begin(), times.quiet_ms.end());
    all.reloading_ms.insert(all.reloading_ms.end(), times.reloading_ms.begin(),
                            times.reloading_ms.end());
    all.failed += times.failed;
  }
  CHECK(!all.quiet_ms.empty() && !all.reloading_ms.empty());
  const double quiet = Percentile(all.quiet_ms, 0.99), busy = Percentile(all.reloading_ms, 0.99);
  fmt::print("{:>10} {:>9} {:>9} {:>9}\n", "", "requests", "p50 ms", "p99 ms");
  fmt::print("{:>10} {:>9} {:>9.2f} {:>9.2f}\n", "quiet", all.quiet_ms.size(), Median(all.quiet_ms),
             quiet);
  fmt::print("{:>10} {:>9} {:>9.2f} {:>9.2f}\n", "reloading", all.reloading_ms.size(),
             Median(all.reloading_ms), busy);
  fmt::print("{} loads of {:.0f} ms (median); p99 {:.2f} times as long; {} requests failed\n",
             load_ms.size(), Median(load_ms), busy / quiet, all.failed);
  report.Add({{"quiet_p99_ms", quiet},
              {"reloading_p99_ms", busy},
              {"quiet_p50_ms", Median(all.quiet_ms)},
              {"reloading_p50_ms", Median(all.reloading_ms)},
              {"loads", load_ms.size()},
              {"load_ms", Median(load_ms)},
              {"failed", all.failed}});
  const int code = report.Finish();
  return all.failed > 0 ? 1 : code;
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("What do clients notice when a server loads another bundle?");
  flags.AddTo(&app);
  app.add_option("--bundles", sizes.bundles, "A full one, then deltas")->capture_default_str();
  app.add_option("--clients", sizes.clients)->capture_default_str();
  app.add_option("--per-s", sizes.per_s, "Requests of a client")->capture_default_str();
  app.add_option("--rounds", sizes.rounds)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  FLAGS_minloglevel = google::GLOG_WARNING;  // a line per load
  if (flags.smoke) {
    sizes.bundles = 2;
    sizes.steps = 3;
    sizes.rounds = 1;
  }
  return savior::Run(sizes, flags);
}
