// Shards that are pushed to and committed as a run does it, without a worker; and what each commit
// has to hold.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/digest_cache.h"
#include "common/random.h"
#include "launcher/commit.h"
#include "launcher/run_commits.h"
#include "launcher/run_folder.h"
#include "launcher/run_store.h"
#include "ps/cold_store.h"
#include "tests/launcher/small_run.h"
#include "worker/tables.h"

namespace savior {

// Values of the rows that there may be, by table: [keys, dim], as pulled.
using PulledRows = std::map<uint32_t, std::vector<float>>;

// While one exists, slices of so many rows are table files of their own: real ones are thousands.
class SlicesAsFiles {
 public:
  explicit SlicesAsFiles(size_t rows) : before_(WriteFilesFrom(rows)) {}
  ~SlicesAsFiles() { WriteFilesFrom(before_); }
  SlicesAsFiles(const SlicesAsFiles&) = delete;
  SlicesAsFiles& operator=(const SlicesAsFiles&) = delete;

 private:
  const size_t before_;
};

// Its slices are written in both ways. Single-threaded, as a run's lead is.
class CommittingStore {
 public:
  static constexpr uint64_t kKeys = 3000;

  // The run's folder is <folder>/run; its shards work in `live`.
  CommittingStore(const std::filesystem::path& folder, const std::filesystem::path& live,
                  uint64_t seed)
      : config_(ConfigOf(folder)), random_(seed) {
    auto run = RunFolder::Open(config_, /*resume=*/true);
    EXPECT_TRUE(run.ok()) << run.status();
    folder_ = *std::move(run);
    std::filesystem::create_directories(live);
    auto store = OpenLocalStore(config_, live, {});
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    TensorFile constant;
    constant.tensors["w"] = {.shape = {3}, .data = {1, 2, 3}};
    commits_ = std::make_unique<RunCommits>(
        folder_->commits(), store_.get(), &digests_,
        std::vector<std::pair<std::string, CommitFile>>{{kEncoderFile, constant}});
  }

  static Config ConfigOf(const std::filesystem::path& folder) {
    Config config = SmallRun(folder, "run");
    config.ps.shards = 2;
    config.ps.ram_budget_mb = 1;
    return config;
  }

  std::filesystem::path commits() const { return folder_->commits(); }
  int64_t step() const { return step_; }
  RunCommits& run_commits() { return *commits_; }

  // A step: some hundred rows of two tables change.
  absl::Status Push() {
    ++step_;
    for (const uint32_t table : {kUserTable, kItemTable}) {
      std::vector<uint64_t> keys;
      for (uint64_t key = random_.Below(20); key < kKeys; key += 1 + random_.Below(20)) {
        keys.push_back(key);
      }
      std::vector<float> grads(keys.size() * Dim(table));
      for (float& g : grads) g = static_cast<float>(random_.Normal());
      const TablePush push{.table = table, .keys = keys, .grads = grads};
      SAVIOR_RETURN_IF_ERROR(store_->store().Push(step_, {&push, 1}, Soon()));
    }
    return absl::OkStatus();
  }

  // Begins the commit of this step, and remembers what it must hold.
  absl::Status Begin() {
    const auto rows = Pull(store_->store());
    SAVIOR_RETURN_IF_ERROR(rows.status());
    held_[step_] = *rows;
    CommitContents contents;
    contents.manifest.step = step_;
    contents.manifest.samples = step_;
    contents.manifest.shards = store_->shards();
    contents.manifest.tables = store_->store().tables();
    contents.dense.tensors["step"] = {.shape = {1}, .data = {static_cast<float>(step_)}};
    contents.resolved = ToToml(config_);
    return commits_->Begin(std::move(contents));
  }
  std::optional<CommitOutcome> Take(bool wait) { return commits_->Take(wait); }
  void Prune(int64_t keep) {
    commits_->Prune(keep, {});
    commits_->Wait();
  }
  // A commit from begin to end, with some pushes while it is written.
  absl::Status Commit(int pushes = 3) {
    absl::Status status = Begin();
    for (int i = 0; i < pushes && status.ok(); ++i) status = Push();
    const auto outcome = Take(/*wait=*/true);
    return status.ok() ? outcome->status : status;
  }

  // Opens the shards in `commit`, a copy of one of ours, and compares all rows.
  void ExpectHolds(const std::filesystem::path& commit, int64_t step) const {
    SCOPED_TRACE(commit);
    const TempFolder live(commit.parent_path());
    const auto store = OpenLocalStore(config_, live / "live", commit);
    ASSERT_TRUE(store.ok()) << store.status();
    const auto rows = Pull((*store)->store());
    ASSERT_TRUE(rows.ok()) << rows.status();
    for (const auto& [table, values] : held_.at(step)) {
      size_t differ = 0;
      for (size_t i = 0; i < values.size(); ++i) differ += values[i] != rows->at(table)[i];
      EXPECT_EQ(differ, 0u) << "values of table " << table << " in the commit of step " << step;
    }
  }

 private:
  static Deadline Soon() { return DeadlineIn(std::chrono::seconds(20)); }
  size_t Dim(uint32_t table) const { return store_->store().tables()[table].dim; }
  static absl::StatusOr<PulledRows> Pull(EmbeddingStore& store) {
    PulledRows rows;
    std::vector<uint64_t> keys(kKeys);
    for (uint64_t k = 0; k < kKeys; ++k) keys[k] = k;
    for (const uint32_t table : {kUserTable, kItemTable}) {
      std::vector<float>& values = rows[table];
      values.resize(kKeys * store.tables()[table].dim);
      const TablePull pull{.table = table, .keys = keys, .rows = values};
      SAVIOR_RETURN_IF_ERROR(store.Pull({&pull, 1}, Soon()));
    }
    return rows;
  }

  const Config config_;
  const SlicesAsFiles as_files_{50};
  Random random_;
  int64_t step_ = 0;
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<RunStore> store_;
  DigestCache digests_;
  std::unique_ptr<RunCommits> commits_;  // after store_: it writes with it
  std::map<int64_t, PulledRows> held_;   // by the step of a commit
};

}  // namespace savior
