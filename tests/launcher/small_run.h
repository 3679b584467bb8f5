// Tiny runs for tests: generated data that is prepared once, and configurations that train in a
// second.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/files.h"
#include "launcher/inspected_commit.h"
#include "launcher/run_commands.h"
#include "worker/data/generate.h"

namespace savior {

inline constexpr int64_t kDaySeconds = 86'400;

// 200 users and 300 items over 14 days from 2023-11-15.
inline GenerateOptions SmallWorld() {
  GenerateOptions options;
  options.users = 200;
  options.items = 300;
  options.days = 14;
  options.requests_per_user_day = 0.5;
  options.clusters = 12;
  options.vector_dim = 16;
  return options;
}

// The same with items that come and drift: something for a refresh of the codebook.
inline GenerateOptions DriftingWorld() {
  GenerateOptions options = SmallWorld();
  options.arrivals = 0.6;
  options.drift = 0.8;
  return options;
}

// Lets refreshes through that tiny worlds would fail: what is gated is tested elsewhere.
inline void OpenGates(Config* config) {
  config->refresh.min_preserved_r2 = -10;
  config->refresh.max_churn = 1;
  config->refresh.max_dead_share = 1;
  config->refresh.max_error_ratio = 100;
  config->refresh.max_auc_loss = 100;
}

// Writes the data to <folder>/raw.
inline void MakeRaw(const std::filesystem::path& folder, GenerateOptions options = SmallWorld()) {
  options.out = folder / "raw";
  const auto generated = Generate(options);
  ASSERT_TRUE(generated.ok()) << generated.status();
}

// A run called `name` on <folder>/raw, with every source of randomness in use: shuffling, dropout
// of IDs and of suffixes, all tables. About 70 steps on SmallWorld.
inline Config SmallRun(const std::filesystem::path& folder, const std::string& name) {
  Config config;
  config.data.raw = (folder / "raw").string();
  config.data.cache = (folder / "cache").string();
  config.data.train_from = "2023-11-15";
  config.data.train_until = config.data.eval_from = "2023-11-26";
  config.data.eval_until = "2023-11-29";
  config.run.dir = (folder / name).string();
  config.encoder.dim = 16;
  config.encoder.hidden = 16;
  config.encoder.steps = 10;
  config.encoder.batch = 64;
  config.codebook.levels = 2;
  config.codebook.codes = 8;
  config.codebook.hidden = 16;
  config.codebook.finetune_steps = 10;
  config.model.id_dim = 8;
  config.model.feature_dim = 4;
  config.model.dnn = "16";
  config.model.tower = "8";
  config.model.fusion_hidden = 16;
  config.model.id_dropout = 0.1;
  config.train.requests_per_batch = 16;
  config.train.shuffle_window = 100;
  config.eval.buckets["new"] = "age_days <= 7";
  return config;
}

inline absl::StatusOr<EvalResult> TrainQuietly(const Config& config,
                                               const RunOptions& options = {}) {
  std::ostringstream out;
  return Train(config, options, out);
}

inline void RunToTheEnd(const Config& config, bool resume = false) {
  const auto result = TrainQuietly(config, {.resume = resume});
  ASSERT_TRUE(result.ok()) << config.run.dir << ": " << result.status();
}

// result.json without what time and machine decide.
inline std::string ResultOf(const Config& config) {
  const auto text = ReadFile(std::filesystem::path(config.run.dir) / "result.json");
  if (!text.ok()) return std::string(text.status().message());
  auto json = nlohmann::ordered_json::parse(*text);
  for (const char* key : {"wall_s", "cpu_s", "samples_per_cpu_s", "peak_rss_bytes", "processes"}) {
    json.at("train").erase(key);
  }
  return json.dump(1);
}

struct Row {
  uint32_t updates = 0;
  int64_t last_step = 0;
  std::vector<float> weights, state;
  bool operator==(const Row&) const = default;
};

using Tables = std::map<std::string, std::map<uint64_t, Row>>;  // by name, by key

inline Tables RowsOf(InspectedCommit& inspected) {
  Tables tables;
  const std::vector<TableSpec>& specs = inspected.commit().manifest.tables;
  for (uint32_t t = 0; t < specs.size(); ++t) {
    auto& rows = tables[specs[t].name];
    const auto add = [&rows](const StoredRow& row) {
      rows[row.key] = {row.updates,
                       row.last_step,
                       {row.weights.begin(), row.weights.end()},
                       {row.state.begin(), row.state.end()}};
      return absl::OkStatus();
    };
    const absl::Status walked = inspected.store().ForEachRow(t, add, InspectDeadline());
    EXPECT_TRUE(walked.ok()) << walked;
  }
  return tables;
}

// Everything that the newest commit of a run holds: dense file and rows.
struct Learned {
  int64_t step = 0;
  std::string dense;  // the file's bytes
  Tables tables;
  bool operator==(const Learned&) const = default;
};

inline Learned LearnedBy(const Config& config) {
  Learned learned;
  const auto inspected = InspectedCommit::Open(config.run.dir);
  EXPECT_TRUE(inspected.ok()) << inspected.status();
  if (!inspected.ok()) return learned;
  const Commit& commit = (*inspected)->commit();
  learned.step = commit.manifest.step;
  learned.dense = ReadFile(commit.folder / "dense.safetensors").value();
  learned.tables = RowsOf(**inspected);
  return learned;
}

// The same result and the same weights, bit for bit; named by table where not.
inline void ExpectSame(const Config& a, const Config& b) {
  SCOPED_TRACE(a.run.dir + " against " + b.run.dir);
  EXPECT_EQ(ResultOf(a), ResultOf(b));
  const Learned left = LearnedBy(a), right = LearnedBy(b);
  EXPECT_EQ(left.step, right.step);
  EXPECT_TRUE(left.dense == right.dense) << "dense weights or moments differ";
  for (const auto& [name, rows] : left.tables) {
    EXPECT_TRUE(rows == right.tables.at(name)) << "table " << name << " differs";
  }
}

}  // namespace savior
