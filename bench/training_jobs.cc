#include "bench/training_jobs.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "bench/harness.h"
#include "launcher/child.h"
#include "launcher/job_command.h"
#include "worker/data/generate.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::minutes kLimit{10};

fs::path CacheFolder() {
  if (const char* cache = std::getenv("SAVIOR_CACHE")) return cache;
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) return fs::path(cache) / "savior";
  const char* home = std::getenv("HOME");
  return fs::path(home == nullptr ? "/" : home) / ".cache/savior";
}

fs::path FindCompleteJourney(const std::string& named) {
  if (!named.empty()) return named;
  const fs::path shared = fs::path(SAVIOR_SOURCE) / "../shared/data/complete_journey";
  return fs::exists(shared) ? fs::canonical(shared) : CacheFolder() / "data/complete_journey";
}

// Steps are what is measured: the encoder is its PCA, the codebook its k-means.
void SkipContent(Config* config) {
  config->encoder.steps = 0;
  config->codebook.finetune_steps = 0;
  config->train.threads = 1;
}

TrainingData Generated(const fs::path& folder, bool tiny) {
  GenerateOptions options;
  options.out = folder / "raw";
  options.users = tiny ? 200 : 5000;
  options.items = tiny ? 300 : 50'000;
  options.days = 14;
  options.requests_per_user_day = tiny ? 0.5 : 0.6;
  CheckOk(Generate(options).status());
  TrainingData data{.name = "generated", .config = {}};
  SkipContent(&data.config);
  data.config.data.raw = options.out.string();
  data.config.data.cache = (folder / "cache").string();
  data.config.data.train_from = "2023-11-17";
  data.config.data.train_until = data.config.data.eval_from = "2023-11-28";
  data.config.data.eval_until = "2023-11-29";
  return data;
}

TrainingData CompleteJourney(const fs::path& raw) {
  TrainingData data{.name = "complete_journey", .config = {}};
  SkipContent(&data.config);
  data.config.data.raw = raw.string();
  data.config.data.train_from = "2017-02-20";
  data.config.data.train_until = data.config.data.eval_from = "2017-10-30";
  data.config.data.eval_until = "2017-10-31";
  return data;
}

}  // namespace

std::vector<TrainingData> TrainingDataSets(const fs::path& folder,
                                           const std::string& complete_journey, bool tiny) {
  std::vector<TrainingData> sets;
  const fs::path journey = FindCompleteJourney(complete_journey);
  if (!tiny && fs::exists(journey / "impressions.parquet")) {
    sets.push_back(CompleteJourney(journey));
  } else if (!tiny) {
    std::cout << "without The Complete Journey: it is not in " << journey.string() << "\n";
  }
  sets.push_back(Generated(folder, tiny));
  return sets;
}

void RunToItsEnd(const std::vector<std::string>& program, int64_t ranks) {
  std::vector<std::string> command = program;
  if (ranks > 0) {
    command = MpirunCommand({.ranks = ranks,
                             .folder = fs::temp_directory_path().string(),
                             .root = ::geteuid() == 0,
                             .program = program});
  }
  const Finished finished = RunAll(std::span(&command, 1), kLimit)[0];
  if (finished.code == 0) return;
  std::cerr << finished.err << "\n" << program[0] << " failed\n";
  std::exit(1);
}

std::string WriteRun(const Config& config) {
  fs::remove_all(config.run.dir);
  const std::string path = config.run.dir + ".toml";
  std::ofstream(path) << ToToml(config);
  return path;
}

}  // namespace savior
