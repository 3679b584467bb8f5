// How many requests does `savior serve` rank per second and core, and how long does one take?
//
// A bundle of a short run, default sizes of the model; on The Complete Journey where it is, else on
// generated data. One request of 200
// candidates and 50 behaviours as JSON over HTTP, again and again.
//
//  (a) the server in this process, one connection, one request after the other: requests per
//  second,
//      and per second of the server's CPU time (this process's but the client's thread)
//  (b) bench/serve_with_onnxruntime.py: the same body, JSON to JSON, rows by numpy, the same ONNX
//      file by onnxruntime on one thread, without HTTP
//
// (a) and (b) take turns; figures are medians of the rounds, (b)'s scores are compared with (a)'s.
// Then latencies of (a) at half of its load: requests come at fixed times, whether or not the one
// before is answered, and a latency runs from the time at which its request was due.
#include <fmt/format.h>
#include <httplib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "bench/harness.h"
#include "bench/training_jobs.h"
#include "common/files.h"
#include "launcher/bundle_export.h"
#include "launcher/run_commands.h"
#include "serving/bundle_scorer.h"
#include "serving/current_scorer.h"
#include "serving/http_server.h"
#include "serving/serving_metrics.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Sizes {
  int64_t history = 50, candidates = 200;
  int64_t rounds = 5;
  int64_t steps = 300;  // of training
  int64_t latencies = 2000;
};

// Trains and exports; the bundle's folder.
fs::path MakeBundle(const fs::path& folder, const Sizes& sizes, bool tiny) {
  const TrainingData data = TrainingDataSets(folder, /*complete_journey=*/"", tiny).front();
  fmt::print("data     {}\n", data.name);
  Config config = data.config;
  config.run.dir = (folder / "run").string();
  config.train.max_steps = sizes.steps;
  std::ostringstream quiet;
  CheckOk(Train(config, {}, quiet).status());
  CheckOk(ExportBundle({.from = config.run.dir, .out = folder / "bundles"}).status());
  return folder / "bundles";
}

// A golden request, its history and candidates repeated until there are as many as wanted.
std::string BodyOf(const fs::path& bundle, const Sizes& sizes) {
  const auto text = ReadFile(bundle / kBundleGolden);
  CheckOk(text.status());
  Json body;
  Json history = Json::array(), candidates = Json::array();
  const Json parsed = Json::parse(*text);
  for (const Json& golden : parsed["requests"]) {
    body = golden["request"];
    for (const Json& past : body["history"]) history.push_back(past);
    for (const Json& candidate : body["candidates"]) candidates.push_back(candidate);
  }
  const auto take = [](const Json& from, int64_t count) {
    Json taken = Json::array();
    if (from.empty()) return taken;  // a smoke run's world may have no histories
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) taken.push_back(from[i % from.size()]);
    return taken;
  };
  body["history"] = take(history, sizes.history);
  // All of them before the request, by ascending time.
  for (size_t i = 0; i < body["history"].size(); ++i) {
    body["history"][i]["timestamp"] =
        body["timestamp"].get<int64_t>() - 3600 * static_cast<int64_t>(body["history"].size() - i);
  }
  body["candidates"] = take(candidates, sizes.candidates);
  return body.dump();
}

class Client {
 public:
  Client(int port, std::string body) : http_("127.0.0.1", port), body_(std::move(body)) {
    http_.set_keep_alive(true);
    http_.set_tcp_nodelay(true);
  }
  // Dies of any other answer than scores.
  Json Rank() {
    const httplib::Result result = http_.Post("/v1/rank", body_, "application/json");
    if (!result || result->status != 200) {
      CheckOk(absl::InternalError(result ? result->body : std::string("no answer")));
    }
    return Json::parse(result->body);
  }
  void RankOnly() {
    const httplib::Result result = http_.Post("/v1/rank", body_, "application/json");
    if (!result || result->status != 200) CheckOk(absl::InternalError("no scores"));
  }

 private:
  httplib::Client http_;
  const std::string body_;
};

struct Speed {
  std::vector<double> per_s, per_cpu_s;
};

void MeasureServer(Client* client, double seconds, Speed* speed) {
  const double start = NowSeconds();
  const double cpu_start = CpuSecondsOf() - ThreadCpuSeconds();
  int64_t requests = 0;
  do {
    client->RankOnly();
    ++requests;
  } while (NowSeconds() - start < seconds);
  const double cpu = CpuSecondsOf() - ThreadCpuSeconds() - cpu_start;
  speed->per_s.push_back(static_cast<double>(requests) / (NowSeconds() - start));
  speed->per_cpu_s.push_back(static_cast<double>(requests) / cpu);
}

// Of `count` requests, one every `interval` seconds.
std::vector<double> Latencies(Client* client, int64_t count, double interval) {
  std::vector<double> latencies;
  const double start = NowSeconds();
  for (int64_t i = 0; i < count; ++i) {
    const double due = start + static_cast<double>(i) * interval;
    const double wait = due - NowSeconds();
    if (wait > 0) std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    client->RankOnly();
    latencies.push_back(NowSeconds() - due);
  }
  return latencies;
}

void Measure(const fs::path& bundles, const Sizes& sizes, const BenchFlags& flags,
             BenchReport* report) {
  const auto version = CurrentBundle(bundles);
  CheckOk(version.status());
  const fs::path body_file = bundles / "body.json";
  const std::string body = BodyOf(bundles / *version, sizes);
  std::ofstream(body_file) << body;
  auto scorer = LoadScorer(bundles, *version, /*digests=*/true);
  CheckOk(scorer.status());
  CurrentScorer current;
  current.Set(*scorer);
  ServingMetrics metrics;
  auto server = ScoringServer::Start({.threads = 2}, current, metrics);
  CheckOk(server.status());
  Client client((*server)->port(), body);
  const std::vector<float> p_ctr = client.Rank()["p_ctr"];

  Speed ours, theirs;
  double difference = 0;
  for (int64_t round = 0; round < sizes.rounds; ++round) {
    MeasureServer(&client, flags.seconds, &ours);
    const Json python =
        AskPython(fmt::format("serve_with_onnxruntime.py '{}' '{}' {}",
                              (bundles / *version).string(), body_file.string(), flags.seconds));
    theirs.per_s.push_back(python["per_s"]);
    theirs.per_cpu_s.push_back(python["per_cpu_s"]);
    const std::vector<float> other = python["p_ctr"];
    for (size_t n = 0; n < other.size(); ++n) {
      difference = std::max(difference, std::abs(static_cast<double>(other[n]) - p_ctr[n]));
    }
  }
  const double rate = 0.5 * Median(ours.per_s);
  const std::vector<double> latencies = Latencies(&client, sizes.latencies, 1 / rate);
  fmt::print("{:>34} {:>10} {:>12}\n", "", "per s", "per CPU-s");
  fmt::print("{:>34} {:>10.0f} {:>12.0f}\n", "savior serve, HTTP", Median(ours.per_s),
             Median(ours.per_cpu_s));
  fmt::print("{:>34} {:>10.0f} {:>12.0f}\n", "onnxruntime and numpy, no HTTP", Median(theirs.per_s),
             Median(theirs.per_cpu_s));
  fmt::print("{:>34} {:>10.2f} {:>12.2f}\n", "ratio", Median(ours.per_s) / Median(theirs.per_s),
             Median(ours.per_cpu_s) / Median(theirs.per_cpu_s));
  fmt::print(
      "at {:.0f} requests/s: latency p50 {:.2f} ms, p99 {:.2f} ms; |p - p| of rows that are there "
      "and zeros {:.1e}; body {} bytes\n",
      rate, 1e3 * Median(latencies), 1e3 * Percentile(latencies, 0.99), difference, body.size());
  report->Add({{"history", sizes.history},
               {"candidates", sizes.candidates},
               {"served_per_s", Median(ours.per_s)},
               {"served_per_cpu_s", Median(ours.per_cpu_s)},
               {"onnxruntime_per_s", Median(theirs.per_s)},
               {"onnxruntime_per_cpu_s", Median(theirs.per_cpu_s)},
               {"half_load_per_s", rate},
               {"p50_ms", 1e3 * Median(latencies)},
               {"p99_ms", 1e3 * Percentile(latencies, 0.99)},
               {"largest_difference", difference}});
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("savior-serve-{}", getpid());
  fs::create_directories(folder);
  const fs::path bundles = MakeBundle(folder, sizes, flags.smoke);
  BenchReport report(
      "bench_serve",
      fmt::format("requests of {} candidates and {} behaviours, JSON over HTTP, one "
                  "connection; medians of {} rounds of {} s in turn with "
                  "onnxruntime in Python; then {} requests at half load",
                  sizes.candidates, sizes.history, sizes.rounds, flags.seconds, sizes.latencies),
      flags);
  Measure(bundles, sizes, flags, &report);
  fs::remove_all(folder);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("How many requests does savior serve rank per second and core?");
  flags.AddTo(&app);
  app.add_option("--history", sizes.history)->capture_default_str();
  app.add_option("--candidates", sizes.candidates)->capture_default_str();
  app.add_option("--rounds", sizes.rounds)->capture_default_str();
  app.add_option("--steps", sizes.steps, "Of training, before")->capture_default_str();
  app.add_option("--latencies", sizes.latencies, "Requests at half load")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes = {.history = 2, .candidates = 3, .rounds = 1, .steps = 5, .latencies = 20};
  }
  return savior::Run(sizes, flags);
}
