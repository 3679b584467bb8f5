// How much faster do two workers train than one, and what does the way over the network cost?
//
// Real `savior train` jobs on this machine, one thread per worker and the same samples each: in one
// process; one server and one worker under mpirun; one server and two workers, with the same global
// batch (each has half of it) and with the same batch per worker (half as many steps); and in one
// process with half the batch (twice as many steps): what smaller batches cost by themselves. Sides
// take turns; a figure is the median of the rounds, a ratio the median of the rounds' ratios.
//
// CPU time is that of all processes of the job while steps are made, by role (result.json). On a
// machine with fewer cores than busy processes wall time cannot scale with the workers; what bounds
// it is printed beside it.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "bench/harness.h"
#include "bench/training_jobs.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Sizes {
  int64_t requests = 64;  // per step
  int64_t steps = 200;
  int64_t staleness = 0;
  int rounds = 5;
  std::string complete_journey;
  std::vector<std::string> only;  // data sets
};

struct Side {
  const char* name;
  int64_t workers;                                                // 0: in one process
  double batches;                                                 // of `requests` per step
  std::vector<double> rate = {}, worker_us = {}, server_us = {};  // by round

  double worker() const { return Median(worker_us); }
  double server() const { return Median(server_us); }
  double cpu(size_t round) const { return worker_us[round] + server_us[round]; }
};

int64_t RequestsOf(const Sizes& sizes, const Side& side) {
  return static_cast<int64_t>(static_cast<double>(sizes.requests) * side.batches);
}

void Measure(const Sizes& sizes, const TrainingData& data, const fs::path& folder, Side* side) {
  Config config = data.config;
  config.run.dir = (folder / "run").string();
  config.train.requests_per_batch = RequestsOf(sizes, *side);
  config.train.max_steps = static_cast<int64_t>(static_cast<double>(sizes.steps) / side->batches);
  config.cluster.staleness = sizes.staleness;
  RunToItsEnd({SAVIOR_PROGRAM, "train", WriteRun(config)},
              side->workers == 0 ? 0 : side->workers + 1);
  std::ifstream file(folder / "run/result.json");
  const nlohmann::json train = nlohmann::json::parse(file).at("train");
  const double samples = train.at("samples"), cpu = train.at("cpu_s"),
               servers = train.at("processes").at("servers_cpu_s");
  side->rate.push_back(samples / train.at("wall_s").get<double>());
  side->worker_us.push_back((cpu - servers) / samples * 1e6);
  side->server_us.push_back(servers / samples * 1e6);
}

// Median over the rounds of figure(round).
template <typename Figure>
double OverRounds(int rounds, Figure figure) {
  std::vector<double> all;
  for (int r = 0; r < rounds; ++r) all.push_back(figure(static_cast<size_t>(r)));
  return Median(all);
}

void Report(const Sizes& sizes, const TrainingData& data, const std::vector<Side>& sides,
            BenchReport* report) {
  const Side& alone = sides[0];
  const Side& one = sides[1];
  const double cores = std::thread::hardware_concurrency();
  for (const Side& side : sides) {
    const auto ratio = [&](auto figure) { return OverRounds(sizes.rounds, figure); };
    const double rate = ratio([&](size_t r) { return side.rate[r] / one.rate[r]; });
    const double cpu = ratio([&](size_t r) { return side.cpu(r) / alone.cpu(r); });
    // Were there a core for every process: workers that use one each.
    const double per_worker = ratio([&](size_t r) {
      return std::max<double>(1, static_cast<double>(side.workers)) * one.worker_us[r] /
             side.worker_us[r];
    });
    // With these cores and nobody else on them, waiting for nothing.
    const double limit = ratio(
        [&](size_t r) { return std::min(per_worker, cores * one.worker_us[r] / side.cpu(r)); });
    std::cout << fmt::format(
                     "{:<17}{:<28}{:>10.0f}{:>8.2f}{:>8.2f}{:>11.2f}{:>10.1f}{:>10.1f}{:>8.2f}\n",
                     data.name, side.name, Median(side.rate), rate, limit, per_worker,
                     side.worker(), side.server(), cpu)
              << std::flush;
    report->Add({{"data", data.name},
                 {"side", side.name},
                 {"workers", side.workers},
                 {"requests_per_step", RequestsOf(sizes, side)},
                 {"staleness", sizes.staleness},
                 {"samples_per_s", Median(side.rate)},
                 {"of_one_worker", rate},
                 {"limit_of_these_cores", limit},
                 {"of_one_worker_at_equal_worker_cpu", per_worker},
                 {"worker_cpu_us_per_sample", side.worker()},
                 {"server_cpu_us_per_sample", side.server()},
                 {"cpu_of_one_process", cpu}});
  }
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  BenchReport report(
      "bench_scaling",
      fmt::format("savior train, {} steps of {} requests (or as many samples in others), one "
                  "thread per worker, one shard, fp32, staleness {}; {} rounds, sides in turn; "
                  "medians; CPU of all processes of a job",
                  sizes.steps, sizes.requests, sizes.staleness, sizes.rounds),
      flags);
  const fs::path folder = fs::temp_directory_path() / fmt::format("bench-scaling-{}", ::getpid());
  fs::create_directories(folder);
  const auto sets = TrainingDataSets(folder, sizes.complete_journey, flags.smoke);
  std::cout << fmt::format("\n{:<17}{:<28}{:>10}{:>8}{:>8}{:>11}{:>10}{:>10}{:>8}\n", "data",
                           "side", "samples/s", "x", "limit", "x per CPU", "worker us", "server us",
                           "CPU x");
  for (const TrainingData& data : sets) {
    if (!sizes.only.empty() && std::ranges::find(sizes.only, data.name) == sizes.only.end())
      continue;
    std::vector<Side> sides = {{"in one process", 0, 1},
                               {"1 server, 1 worker", 1, 1},
                               {"2 workers, same batch", 2, 1},
                               {"2 workers, batch each", 2, 2},
                               {"in one process, half of it", 0, 0.5}};
    for (int round = 0; round < sizes.rounds; ++round) {
      for (Side& side : sides) Measure(sizes, data, folder, &side);
    }
    Report(sizes, data, sides, &report);
  }
  fs::remove_all(folder);
  std::cout << "x: samples/s against 1 worker; limit: what CPU time and cores allow it to be; "
               "x per CPU: were there a core for every process;\nworker, server: CPU per sample, "
               "all of them; CPU x: against one process\n";
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("How much faster do two workers train than one?");
  flags.AddTo(&app);
  app.add_option("--requests", sizes.requests, "Per step")->capture_default_str();
  app.add_option("--steps", sizes.steps)->capture_default_str();
  app.add_option("--staleness", sizes.staleness)->capture_default_str();
  app.add_option("--rounds", sizes.rounds)->capture_default_str();
  app.add_option("--complete-journey", sizes.complete_journey, "Folder of its raw data");
  app.add_option("--only", sizes.only, "Data sets: complete_journey, generated");
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes.requests = 16;
    sizes.steps = 8;
    sizes.rounds = 1;
  }
  return savior::Run(sizes, flags);
}
