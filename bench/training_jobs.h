// What bench_scaling and bench_overlap have in common: data sets to train on, and jobs of processes
// on this machine, started as `savior launch` starts them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/config.h"

namespace savior {

// A data set, and a configuration that trains on it: one thread per worker, little content (it is
// no part of a step), one day to evaluate.
struct TrainingData {
  std::string name;
  Config config;
};

// Generated into `folder` ("generated"), and The Complete Journey, whose raw data are in
// `complete_journey`, or, if that is empty, where scripts/setup.sh --data puts them; where they are
// not, says so and leaves it out. tiny: for smoke runs, and without The Complete Journey.
std::vector<TrainingData> TrainingDataSets(const std::filesystem::path& folder,
                                           const std::string& complete_journey, bool tiny);

// Runs `program`, with its arguments: as `ranks` processes under mpirun, or, with 0, alone. Ends
// the bench with its errors if it fails or takes longer than ten minutes.
void RunToItsEnd(const std::vector<std::string>& program, int64_t ranks);

// Writes `config` to <run.dir>.toml, and removes run.dir. Returns the file.
std::string WriteRun(const Config& config);

}  // namespace savior
