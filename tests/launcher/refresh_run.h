// Runs on a drifting world whose codebook is refreshed, and what they leave.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "launcher/commit.h"
#include "launcher/refresh_rollback.h"
#include "tests/common/temp_folder.h"
#include "tests/launcher/small_run.h"
#include "worker/tables.h"

namespace savior {

inline constexpr int64_t kRefreshBegin = 20, kRefreshSwitch = 26;  // steps

// A run called `name` on <folder>/raw, a DriftingWorld, with a codebook of its first five days;
// long enough for several refreshes.
inline Config DriftingRun(const std::filesystem::path& folder, const std::string& name) {
  Config config = SmallRun(folder, name);
  config.codebook.learn_until = "2023-11-20";
  config.commit.every_steps = 8;
  config.commit.keep = 2;
  OpenGates(&config);
  config.refresh.cpu_share = 1;
  config.refresh.probation_steps = 10'000;
  return config;
}

// The same with a refresh at a step, so that it repeats.
inline Config WithRefresh(Config config) {
  config.refresh.at_step = kRefreshBegin;
  config.refresh.switch_after_steps = kRefreshSwitch - kRefreshBegin;
  return config;
}

inline void StopAndResume(Config config, int64_t stop) {
  config.train.max_steps = stop;
  RunToTheEnd(config);
  config.train.max_steps = 0;
  RunToTheEnd(config, /*resume=*/true);
}

// Of tests over one drifting world with two runs: one that keeps its codebook, and one that
// refreshes it at kRefreshBegin. Suite::Named(name): a run's configuration.
template <typename Suite>
class RefreshSuite : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    MakeRaw(folder_->path(), DriftingWorld());
    RunToTheEnd(Never());
    RunToTheEnd(Once());
  }
  static void TearDownTestSuite() { delete folder_; }

  static Config Never() { return Suite::Named("never"); }
  static Config Once() { return WithRefresh(Suite::Named("once")); }

  // Once(), stopped at a step and started again.
  static Config StoppedAndResumed(int64_t stop) {
    const Config config = WithRefresh(Suite::Named("stopped-at-" + std::to_string(stop)));
    StopAndResume(config, stop);
    return config;
  }

  static inline TempFolder* folder_ = nullptr;
};

inline std::vector<nlohmann::json> EventsOf(const Config& config) {
  std::ifstream file(std::filesystem::path(config.run.dir) / "refresh.jsonl");
  std::vector<nlohmann::json> events;
  std::string line;
  while (std::getline(file, line)) events.push_back(nlohmann::json::parse(line));
  return events;
}

inline std::vector<std::string> StatesOf(const Config& config) {
  std::vector<std::string> states;
  for (const auto& event : EventsOf(config)) states.push_back(event.at("state"));
  return states;
}

// For RollBackCodebook: the run goes on over the same data.
inline absl::Status Anyhow(const Commit&) { return absl::OkStatus(); }

inline CodebookState StateOf(const Config& config) {
  return NewestCommit(std::filesystem::path(config.run.dir) / "commits")->manifest.codebook;
}

// Of the newest commit: what training reads under its codebook version.
inline Learned InUse(const Config& config) {
  Learned learned = LearnedBy(config);
  const uint32_t version = StateOf(config).version;
  std::erase_if(learned.tables["align"], [&](const auto& row) {
    return SlotOfAlignKey(row.first) != CodebookSlot(version);
  });
  if (config.model.prefix_ngrams) {
    std::map<uint64_t, Row> used;
    for (auto& [key, row] : learned.tables["prefix"]) {
      if (IsOfBuild(key, StateOf(config).build)) used[WithoutBuild(key)] = row;
    }
    learned.tables["prefix"] = used;
  }
  const ContentLayout layout = ContentLayout::Of(config);
  for (auto& [key, row] : learned.tables["content"]) {
    const std::span<const float> all = row.weights;
    const auto z = all.subspan(layout.z(version), layout.dim);
    const auto codes = all.subspan(layout.codes(version), layout.levels);
    std::vector<float> used(z.begin(), z.end());
    used.insert(used.end(), codes.begin(), codes.end());
    row = {0, 0, used, {}};
  }
  return learned;
}

}  // namespace savior
