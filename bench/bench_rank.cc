// How many requests does one thread rank per second? The ranker's inference graph, with default
// sizes (model.*, encoder.dim), over 200 candidates and a history of 50:
//   (a) our GraphRunner, in C++,
//   (b) onnxruntime on the ONNX file of the same graph, from Python (rank_with_onnxruntime.py).
// Both get the looked-up rows in memory and take turns; a figure is the median of the rounds. (b)'s
// scores are compared with (a)'s.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/harness.h"
#include "common/tensor_file.h"
#include "serving/graph_runner.h"
#include "serving/onnx_writer.h"
#include "serving/ranker_graph.h"
#include "worker/model/ranker.h"

namespace savior {
namespace {

struct Sizes {
  std::string arms = "base,savior";
  int64_t history = 50, candidates = 200;
  int64_t rounds = 5;
};

// Of a log like our data sets': 6 features of an item, 3 of an impression, 6 numerics.
constexpr RankerSizes kLog = {6, 3, 6};

struct Speed {
  std::vector<double> per_s, per_cpu_s;  // requests; per round
};

// Random rows for all that `runner` takes.
std::map<std::string, HostTensor> RandomInputs(const GraphRunner& runner, const Sizes& sizes) {
  std::map<std::string, HostTensor> inputs;
  Random random(1);
  for (const GraphValue& input : runner.inputs()) {
    const int64_t rows = input.rows == Rows::kOne       ? 1
                         : input.rows == Rows::kHistory ? sizes.history
                                                        : sizes.candidates;
    HostTensor& tensor = inputs[input.name];
    tensor.shape = {rows, input.width};
    // About as long as a unit vector of encoder.dim.
    for (int64_t i = 0; i < rows * input.width; ++i) {
      tensor.data.push_back(static_cast<float>(0.125 * random.Normal()));
    }
  }
  return inputs;
}

void MeasureRunner(const GraphRunner& runner, const GraphRequest& request, double seconds,
                   Speed* speed) {
  const double start = NowSeconds(), cpu_start = ThreadCpuSeconds();
  int64_t requests = 0;
  do {
    CheckOk(runner.Run(request).status());
    ++requests;
  } while (NowSeconds() - start < seconds);
  speed->per_s.push_back(static_cast<double>(requests) / (NowSeconds() - start));
  speed->per_cpu_s.push_back(static_cast<double>(requests) / (ThreadCpuSeconds() - cpu_start));
}

void MeasureArm(const std::string& arm, const Sizes& sizes, const BenchFlags& flags,
                BenchReport* report) {
  Config config;
  config.model.arm = arm;
  Ranker ranker(config, {kLog.features, kLog.context, kLog.numerics});
  auto graph = RankerGraph(config, kLog, ranker.dense().Save());
  CheckOk(graph.status());
  const GraphRunner runner(*graph);
  TensorFile file{.tensors = RandomInputs(runner, sizes), .metadata = {}};
  GraphRequest request{.history = sizes.history, .candidates = sizes.candidates, .inputs = {}};
  for (const GraphValue& input : runner.inputs()) {
    request.inputs.emplace_back(file.tensors[input.name].data);
  }
  auto scores = runner.Run(request);
  CheckOk(scores.status());

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("savior-rank-{}", getpid());
  std::filesystem::create_directories(folder);
  auto onnx = OnnxModel(*graph, {});
  CheckOk(onnx.status());
  std::ofstream(folder / "model.onnx", std::ios::binary) << *onnx;
  CheckOk(WriteTensorFile(folder / "request.safetensors", file));

  Speed ours, theirs;
  double difference = 0;
  for (int64_t round = 0; round < sizes.rounds; ++round) {
    MeasureRunner(runner, request, flags.seconds, &ours);
    const nlohmann::json python =
        AskPython(fmt::format("rank_with_onnxruntime.py '{}' {}", folder.string(), flags.seconds));
    theirs.per_s.push_back(python["per_s"]);
    theirs.per_cpu_s.push_back(python["per_cpu_s"]);
    const std::vector<float> p_ctr = python["p_ctr"];
    for (size_t n = 0; n < p_ctr.size(); ++n) {
      difference = std::max(difference, std::abs(static_cast<double>(p_ctr[n]) - (*scores)[0][n]));
    }
  }
  std::filesystem::remove_all(folder);

  const double ratio = Median(ours.per_s) / Median(theirs.per_s);
  const double cpu_ratio = Median(ours.per_cpu_s) / Median(theirs.per_cpu_s);
  fmt::print("{:>16} {:>10.0f} {:>10.0f} {:>7.2f} {:>12.0f} {:>12.0f} {:>7.2f} {:>10.1e}\n", arm,
             Median(ours.per_s), Median(theirs.per_s), ratio, Median(ours.per_cpu_s),
             Median(theirs.per_cpu_s), cpu_ratio, difference);
  report->Add({{"arm", arm},
               {"history", sizes.history},
               {"candidates", sizes.candidates},
               {"runner_per_s", Median(ours.per_s)},
               {"onnxruntime_per_s", Median(theirs.per_s)},
               {"runner_per_cpu_s", Median(ours.per_cpu_s)},
               {"onnxruntime_per_cpu_s", Median(theirs.per_cpu_s)},
               {"largest_difference", difference}});
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  BenchReport report("bench_rank",
                     fmt::format("requests of {} candidates and {} positions, one thread; medians "
                                 "of {} rounds of {} s, GraphRunner and onnxruntime in turn",
                                 sizes.candidates, sizes.history, sizes.rounds, flags.seconds),
                     flags);
  fmt::print("{:>16} {:>10} {:>10} {:>7} {:>12} {:>12} {:>7} {:>10}\n", "", "ours/s", "ort/s",
             "ratio", "ours/cpu-s", "ort/cpu-s", "ratio", "|p - p|");
  for (size_t begin = 0; begin <= sizes.arms.size();) {
    const size_t end = std::min(sizes.arms.find(',', begin), sizes.arms.size());
    MeasureArm(sizes.arms.substr(begin, end - begin), sizes, flags, &report);
    begin = end + 1;
  }
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("How many requests does one thread rank per second, beside onnxruntime?");
  flags.AddTo(&app);
  app.add_option("--arms", sizes.arms, "Comma separated")->capture_default_str();
  app.add_option("--history", sizes.history)->capture_default_str();
  app.add_option("--candidates", sizes.candidates)->capture_default_str();
  app.add_option("--rounds", sizes.rounds)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes.candidates = 3;
    sizes.history = 2;
    sizes.rounds = 1;
  }
  return savior::Run(sizes, flags);
}
