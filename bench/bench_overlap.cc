// How much of the time that pulls and pushes take do the other parts of a step hide?
//
// Real runs under mpirun on this machine: one server, one and two workers, one thread each,
// staleness 0 (with hints) and 1. Blocks of 16 steps take turns: as they are, and with every pull
// and push waited for at once, so that nothing overlaps; same server, same data, same minute.
//
//   trip    what a pull and a push of a step take when they are waited for at once, from the call
//           until their answers are in the worker's arrays. With several workers that of the one
//           that waits least: the others also wait for it.
//   waited  what the worker's thread spends in the same calls (StepSeconds: pull_wait, push_wait)
//           when they overlap, own work included; mean of the workers
//   own     of that, the thread's CPU time: making requests, taking answers in
//   hidden  1 - waited / trip;  wait hidden: 1 - (waited - own) / (trip - own)
//
// Figures are medians over steps. Prints a median step as a chart, and draws it (--svg).
#include <fmt/format.h>
#include <glog/logging.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/harness.h"
#include "bench/observed_place.h"
#include "bench/step_chart.h"
#include "bench/training_jobs.h"
#include "common/process.h"
#include "launcher/cluster_process.h"
#include "launcher/orphan.h"
#include "launcher/training_run.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Sizes {
  int64_t requests = 64;  // per step
  int64_t steps = 256;
  std::vector<int64_t> stalenesses = {0, 1};
  std::vector<int64_t> workers = {1, 2};
  std::string data = "complete_journey";
  std::string complete_journey;
  std::string svg;
  std::string rank;  // of a rank: its configuration
};

// ---- A rank of a job: what `savior train` does, observed.

Json ToJson(const Observations& observations, const Json& steps) {
  Json calls = Json::array();
  for (const ObservedCall& c : observations.calls) {
    calls.push_back({{"push", c.kind == CallKind::kPush},
                     {"step", c.step},
                     {"times", {c.start_begin, c.start_end, c.finish_begin, c.finish_end}},
                     {"cpu", c.cpu}});
  }
  return {{"calls", calls},
          {"allreduce_begin", observations.allreduce_begin},
          {"allreduce_end", observations.allreduce_end},
          {"steps", steps}};
}

absl::Status Work(const Config& config, ClusterProcess* process) {
  if (!IsWorker(process->role())) {
    SAVIOR_ASSIGN_OR_RETURN(const RunStart start, process->Agree(std::nullopt));
    SAVIOR_RETURN_IF_ERROR(process->OpenStore(start).status());
    process->link()->WaitForEnd();
    return absl::OkStatus();
  }
  Observations observations;
  const std::unique_ptr<RunPlace> place = Observe(process, &observations);
  Json steps = Json::array();
  RunOptions options;
  options.after_step = [&steps](int64_t, const StepFigures& figures) {
    const StepSeconds& s = figures.seconds;
    steps.push_back({{"end", NowSeconds()},
                     {"assemble", s.assemble},
                     {"compute", s.compute},
                     {"adam", s.adam}});
  };
  TrainingRun run(config, options, place.get(), std::cout);
  SAVIOR_RETURN_IF_ERROR(run.Run().status());
  std::ofstream(fmt::format("{}/observed-{}.json", config.run.dir, process->workers().rank()))
      << ToJson(observations, steps);
  process->link()->ReportFinished();
  return absl::OkStatus();
}

int RankMain(const std::string& path) {
  DieWithParent();
  const auto config = LoadConfig(path, {});
  CheckOk(config.status());
  ClusterProcess process(*config);
  CheckOk(process.Join(""));
  const absl::Status status = Work(*config, &process);
  if (status.ok()) return 0;
  std::cerr << status << std::endl;
  std::_Exit(1);  // mpirun ends the others
}

// ---- What ranks have written.

struct Step {
  double end = 0, assemble = 0, compute = 0, adam = 0;
  double allreduce_begin = 0, allreduce_end = 0;
  ObservedCall pull, push;

  double waited() const { return pull.waited() + push.waited(); }
  double own() const { return pull.cpu + push.cpu; }
};

std::vector<Step> ReadSteps(const std::string& path) {
  std::ifstream file(path);
  const Json json = Json::parse(file);
  std::vector<Step> steps;
  for (size_t t = 0; t < json.at("steps").size(); ++t) {
    const Json& s = json["steps"][t];
    steps.push_back({.end = s.at("end"),
                     .assemble = s.at("assemble"),
                     .compute = s.at("compute"),
                     .adam = s.at("adam"),
                     .allreduce_begin = json.at("allreduce_begin").at(t),
                     .allreduce_end = json.at("allreduce_end").at(t),
                     .pull = {},
                     .push = {}});
  }
  for (const Json& c : json.at("calls")) {
    const bool push = c.at("push");
    const Json& times = c.at("times");
    Step& step = steps.at(c.at("step").get<size_t>());
    (push ? step.push : step.pull) = {.kind = push ? CallKind::kPush : CallKind::kPull,
                                      .step = c.at("step"),
                                      .start_begin = times[0],
                                      .start_end = times[1],
                                      .finish_begin = times[2],
                                      .finish_end = times[3],
                                      .cpu = c.at("cpu")};
  }
  return steps;
}

// Steps of one kind, but for those at the edges of blocks, whose neighbours are of the other kind.
std::vector<size_t> StepsOf(bool serial, size_t steps) {
  constexpr int64_t kEdge = 3;
  std::vector<size_t> of;
  for (int64_t t = kBlock / 2; t < static_cast<int64_t>(steps) - kEdge; ++t) {
    if (IsSerial(t) == serial && IsSerial(t - kEdge) == serial && IsSerial(t + kEdge) == serial) {
      of.push_back(static_cast<size_t>(t));
    }
  }
  return of;
}

struct Figures {
  double step_ms = 0, serial_step_ms = 0;
  double trip = 0, pull_trip = 0, push_trip = 0;  // seconds
  double trip_own = 0;
  double waited = 0, pull_waited = 0, push_waited = 0;
  double own = 0;

  double hidden() const { return 1 - waited / trip; }
  double wait_hidden() const { return 1 - std::max(0.0, waited - own) / (trip - trip_own); }
};

using Workers = std::vector<std::vector<Step>>;  // [workers][steps]

// Median over `steps` of figure(t).
template <typename Figure>
double OverSteps(const std::vector<size_t>& steps, Figure figure) {
  std::vector<double> all;
  for (const size_t t : steps) all.push_back(figure(t));
  return Median(all);
}

template <typename Figure>
double MeanOf(const Workers& workers, Figure figure) {
  double sum = 0;
  for (const std::vector<Step>& steps : workers) sum += figure(steps);
  return sum / static_cast<double>(workers.size());
}

Figures FiguresOf(const Workers& workers) {
  const std::vector<size_t> serial = StepsOf(true, workers[0].size());
  const std::vector<size_t> overlapped = StepsOf(false, workers[0].size());
  // Of the worker that waits least in the step.
  const auto least = [&](size_t t) -> const Step& {
    size_t best = 0;
    for (size_t w = 1; w < workers.size(); ++w) {
      if (workers[w][t].waited() < workers[best][t].waited()) best = w;
    }
    return workers[best][t];
  };
  const auto mean = [&](auto of) {
    return OverSteps(overlapped, [&](size_t t) {
      return MeanOf(workers, [&](const std::vector<Step>& steps) { return of(steps[t]); });
    });
  };
  const auto length = [&](size_t t) { return workers[0][t].end - workers[0][t - 1].end; };
  Figures f;
  f.step_ms = OverSteps(overlapped, length) * 1e3;
  f.serial_step_ms = OverSteps(serial, length) * 1e3;
  f.trip = OverSteps(serial, [&](size_t t) { return least(t).waited(); });
  f.pull_trip = OverSteps(serial, [&](size_t t) { return least(t).pull.waited(); });
  f.push_trip = OverSteps(serial, [&](size_t t) { return least(t).push.waited(); });
  f.trip_own = OverSteps(serial, [&](size_t t) { return least(t).own(); });
  f.waited = mean([](const Step& s) { return s.waited(); });
  f.pull_waited = mean([](const Step& s) { return s.pull.waited(); });
  f.push_waited = mean([](const Step& s) { return s.push.waited(); });
  f.own = mean([](const Step& s) { return s.own(); });
  return f;
}

// ---- Pictures.

const std::vector<LegendEntry> kLegend = {{'a', "#9ecae1", "assemble, hint"},
                                          {'p', "#e6550d", "pull: ask, wait"},
                                          {'C', "#a1d99b", "forward, backward"},
                                          {'u', "#d62728", "push: give, wait"},
                                          {'r', "#756bb1", "wait for allreduce"},
                                          {'d', "#bcbddc", "Adam"},
                                          {'=', "#fdae6b", "under way, as long as alone"},
                                          {'-', "#fee6ce", "answer waits, at most"}};

StepChart ChartOf(const std::string& title, const std::vector<Step>& steps, size_t t,
                  const Figures& figures) {
  const Step& step = steps[t];
  const double zero = steps[t - 1].end;
  StepChart chart{.title = title, .seconds = step.end - zero, .lanes = {}};
  const auto bar = [zero](double begin, double end, char letter) {
    return Bar{begin - zero, end - zero, letter};
  };
  Lane worker{"worker", {}};
  worker.bars = {bar(zero, zero + step.assemble, 'a'),
                 bar(step.pull.finish_end, step.pull.finish_end + step.compute, 'C'),
                 bar(step.allreduce_begin, step.allreduce_end, 'r'),
                 bar(step.allreduce_end, step.allreduce_end + step.adam, 'd')};
  Lane pull{"pulls", {}}, push{"pushes", {}};
  const size_t last = std::min(steps.size() - 1, t + 5);
  for (size_t near = t >= 5 ? t - 5 : 0; near <= last; ++near) {
    for (const ObservedCall* call : {&steps[near].pull, &steps[near].push}) {
      const bool is_pull = call->kind == CallKind::kPull;
      for (const auto& [begin, end] : {std::pair{call->start_begin, call->start_end},
                                       std::pair{call->finish_begin, call->finish_end}}) {
        if (end > zero && begin < step.end)
          worker.bars.push_back(bar(begin, end, is_pull ? 'p' : 'u'));
      }
      Lane& lane = is_pull ? pull : push;
      const double alone = call->start_begin + (is_pull ? figures.pull_trip : figures.push_trip);
      if (call->finish_end > alone) lane.bars.push_back(bar(alone, call->finish_end, '-'));
      lane.bars.push_back(bar(call->start_begin, std::min(alone, call->finish_end), '='));
    }
  }
  chart.lanes = {worker, pull, push};
  return chart;
}

size_t MedianStep(const std::vector<Step>& steps) {
  std::vector<size_t> of = StepsOf(false, steps.size());
  std::ranges::sort(of, {}, [&](size_t t) { return steps[t].end - steps[t - 1].end; });
  return of[of.size() / 2];
}

// ---- The bench.

Workers Measure(const Sizes& sizes, const TrainingData& data, const std::string& program,
                int64_t staleness, int64_t workers, const fs::path& folder) {
  Config config = data.config;
  config.run.dir = (folder / "run").string();
  config.train.requests_per_batch = sizes.requests;
  config.train.max_steps = sizes.steps;
  config.cluster.staleness = staleness;
  config.train.metrics_every_s = 1e6;  // not within a step
  RunToItsEnd({program, "--rank", WriteRun(config)}, workers + 1);
  Workers all;
  for (int64_t w = 0; w < workers; ++w) {
    all.push_back(ReadSteps(fmt::format("{}/observed-{}.json", config.run.dir, w)));
  }
  return all;
}

constexpr const char* kRow = "{:>9}{:>8}{:>8}{:>9}{:>8}{:>7}{:>7}{:>9}{:>7}{:>7}{:>7}{:>8}{:>11}\n";

void Print(int64_t staleness, int64_t workers, const Figures& f, BenchReport* report) {
  const auto ms = [](double seconds) { return seconds * 1e3; };
  const auto two = [](double seconds) { return fmt::format("{:.2f}", seconds * 1e3); };
  const auto percent = [](double share) { return fmt::format("{:.0f}%", share * 100); };
  std::cout << fmt::format(kRow, staleness, workers, fmt::format("{:.1f}", f.step_ms),
                           fmt::format("{:.1f}", f.serial_step_ms), two(f.trip), two(f.pull_trip),
                           two(f.push_trip), two(f.waited), two(f.pull_waited), two(f.push_waited),
                           two(f.own), percent(f.hidden()), percent(f.wait_hidden()))
            << std::flush;
  report->Add({{"staleness", staleness},
               {"workers", workers},
               {"step_ms", f.step_ms},
               {"serial_step_ms", f.serial_step_ms},
               {"trip_ms", ms(f.trip)},
               {"pull_trip_ms", ms(f.pull_trip)},
               {"push_trip_ms", ms(f.push_trip)},
               {"trip_own_ms", ms(f.trip_own)},
               {"waited_ms", ms(f.waited)},
               {"pull_waited_ms", ms(f.pull_waited)},
               {"push_waited_ms", ms(f.push_waited)},
               {"own_ms", ms(f.own)},
               {"hidden", f.hidden()},
               {"wait_hidden", f.wait_hidden()}});
}

int Run(const Sizes& sizes, const BenchFlags& flags, const std::string& program) {
  BenchReport report("bench_overlap",
                     fmt::format("training under mpirun, {} steps of {} requests, one thread per "
                                 "worker, one shard, tcp on loopback; blocks of {} steps "
                                 "overlapped and not in turn; medians over steps, ms",
                                 sizes.steps, sizes.requests, kBlock),
                     flags);
  const fs::path folder = fs::temp_directory_path() / fmt::format("bench-overlap-{}", ::getpid());
  fs::create_directories(folder);
  const auto sets = TrainingDataSets(folder, sizes.complete_journey, flags.smoke);
  const auto named = std::ranges::find(sets, sizes.data, &TrainingData::name);
  const TrainingData& data = named == sets.end() ? sets.front() : *named;
  std::cout << fmt::format("data     {}\n\n", data.name)
            << fmt::format(kRow, "staleness", "workers", "step", "serially", "trip =", "pull +",
                           "push", "waited =", "pull +", "push", "own", "hidden", "wait hidden");
  std::vector<StepChart> charts;
  for (const int64_t staleness : sizes.stalenesses) {
    for (const int64_t workers : sizes.workers) {
      const Workers all = Measure(sizes, data, program, staleness, workers, folder);
      const Figures figures = FiguresOf(all);
      Print(staleness, workers, figures, &report);
      charts.push_back(ChartOf(
          fmt::format("staleness {}, {} worker{}", staleness, workers, workers == 1 ? "" : "s"),
          all[0], MedianStep(all[0]), figures));
    }
  }
  fs::remove_all(folder);
  std::cout << "\n";
  for (const StepChart& chart : charts) std::cout << DrawText(chart, 100);
  for (const LegendEntry& entry : kLegend) {
    std::cout << fmt::format("  {} {}\n", entry.letter, entry.meaning);
  }
  if (!sizes.svg.empty()) std::ofstream(sizes.svg) << DrawSvg(charts, kLegend);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  savior::KeepFreedMemory();
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("How much of the time that pulls and pushes take is hidden?");
  flags.AddTo(&app);
  app.add_option("--requests", sizes.requests, "Per step")->capture_default_str();
  app.add_option("--steps", sizes.steps)->capture_default_str();
  app.add_option("--staleness", sizes.stalenesses)->capture_default_str();
  app.add_option("--workers", sizes.workers)->capture_default_str();
  app.add_option("--data", sizes.data, "complete_journey or generated")->capture_default_str();
  app.add_option("--complete-journey", sizes.complete_journey, "Folder of its raw data");
  app.add_option("--svg", sizes.svg, "Draws the charts into this file");
  app.add_option("--rank", sizes.rank, "Of the processes that it starts")->group("");
  CLI11_PARSE(app, argc, argv);
  if (!sizes.rank.empty()) return savior::RankMain(sizes.rank);
  if (flags.smoke) {
    sizes.requests = 16;
    sizes.steps = 40;
    sizes.workers = {2};
  }
  return savior::Run(sizes, flags, std::filesystem::canonical("/proc/self/exe").string());
}
