// The commits of a run, written while it goes on: the lead's.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "common/digest_cache.h"
#include "common/tensor_file.h"
#include "launcher/commit.h"
#include "launcher/commit_flow.h"
#include "launcher/run_store.h"

namespace savior {

// A file of a commit: tensors, or bytes as they are.
using CommitFile = std::variant<TensorFile, std::string>;

// The lead's part of a commit: a state to go on from, copied.
struct CommitContents {
  CommitManifest manifest;  // less its files
  TensorFile dense;
  std::string resolved;  // configuration
};

// What became of a commit.
struct CommitOutcome {
  int64_t step = 0;
  absl::Status status;
};

// Single-threaded for its owner; works on a thread of its own, one thing at a time.
class RunCommits final {
 public:
  // `folder` gets the commits of `store`; both outlive the object, as `digests`, which knows files
  // of earlier commits. constant: files that are the same in every commit, until SetConstant.
  RunCommits(std::filesystem::path folder, RunStore* store, DigestCache* digests,
             std::vector<std::pair<std::string, CommitFile>> constant);
  // Gives a commit under way up: its folder stays unfinished.
  ~RunCommits();
  RunCommits(const RunCommits&) = delete;
  RunCommits& operator=(const RunCommits&) = delete;

  // The constant file `name` is another one, or a new one, or is gone: in the commits that begin
  // from now on. One under way is not touched. Does not block.
  void SetConstant(std::string name, CommitFile file);
  void DropConstant(const std::string& name);

  // Begins a commit: from the return on pushes may come, whatever it returns; they must not before.
  // What became of it Take says, also if this fails. None is under way.
  [[nodiscard]] absl::Status Begin(CommitContents contents);
  bool under_way() const { return under_way_; }
  // What became of the commit under way, once, if it has ended; with `wait`, waits for that.
  std::optional<CommitOutcome> Take(bool wait);
  // Deletes all but the newest `keep` commits and those `pinned` (KeepNewest), in the background.
  // None is under way.
  void Prune(int64_t keep, std::vector<std::filesystem::path> pinned);
  // Waits for the end of what is being done.
  void Wait();

 private:
  class Shards;
  class Files;

  void Start(std::function<void()> work);
  void Log() const;

  const std::unique_ptr<Shards> shards_;
  const std::unique_ptr<Files> files_;
  CommitFlow flow_;
  // What SetConstant and DropConstant (no file) said since the last Begin: files_ is the thread's.
  std::vector<std::pair<std::string, std::optional<CommitFile>>> changes_;
  bool under_way_ = false;
  std::atomic<bool> ended_ = true;  // what thread_ does
  std::atomic<bool> give_up_ = false;
  std::thread thread_;
};

}  // namespace savior
