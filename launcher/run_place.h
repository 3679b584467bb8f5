// Where a training run runs: which of its workers this process is, and how it gets at the others
// and at the tables. One process alone, or many (launcher/cluster_run.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "launcher/commit.h"
#include "launcher/run_store.h"
#include "worker/allreduce.h"
#include "worker/group.h"

namespace savior {

// For what may take as long as it takes: a dead process is found out otherwise (control.h).
inline constexpr std::chrono::hours kPatience{24 * 7};

// From what a run starts: what its first worker, the lead, has found in the run's folder.
struct RunStart {
  std::filesystem::path restore_from = {};  // a commit's folder; empty: from the beginning
  int64_t step = 0;
  int64_t samples = 0;
  CodebookState codebook = {};     // shards serve its version until they are told to switch
  std::vector<int64_t> cuts = {};  // of the training period (worker/data/batch.h)
};

class RunPlace {
 public:
  virtual ~RunPlace() = default;

  // Its rank 0 is the lead: it alone prepares content, writes commits and results.
  virtual Group& workers() = 0;
  virtual Allreduce& allreduce() = 0;
  bool lead() { return workers().rank() == 0; }
  // Where all workers compute, of cluster.device's choices; many have agreed on "cpu" or "cuda".
  virtual std::string device() const = 0;
  // This worker's number among those of its machine: picks its GPU.
  virtual int64_t local_worker() const { return 0; }

  // The lead says what the run starts from, the others hear it; they wait as long as it takes.
  [[nodiscard]] virtual absl::StatusOr<RunStart> Agree(std::optional<RunStart> mine) = 0;
  // The tables, as RunStart says.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<RunStore>> OpenStore(
      const RunStart& start) = 0;
};

class SoloPlace final : public RunPlace {
 public:
  explicit SoloPlace(const Config& config) : config_(config) {}

  Group& workers() override { return group_; }
  Allreduce& allreduce() override { return allreduce_; }
  std::string device() const override { return config_.cluster.device; }
  absl::StatusOr<RunStart> Agree(std::optional<RunStart> mine) override { return *mine; }
  absl::StatusOr<std::unique_ptr<RunStore>> OpenStore(const RunStart& start) override {
    SAVIOR_ASSIGN_OR_RETURN(auto store,
                            OpenLocalStore(config_, LiveFolder(config_), start.restore_from));
    RemoveUnusedServerFolders(LiveFolder(config_), 0);
    return store;
  }

 private:
  const Config config_;
  SoloGroup group_;
  SoloAllreduce allreduce_;
};

}  // namespace savior
