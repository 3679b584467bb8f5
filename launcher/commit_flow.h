// The way of one commit after the other, as a lead sees it: which step follows which, and what
// becomes of one that fails. Knows shards, disk and clock by interfaces only.
//
//   idle --Freeze--> freezing --all frozen--> writing --all written--> publishing --> done
//                        |                       |                         |
//                        +-----------------------+------- an error --------+--> failed
//
// Training stands still while freezing, and at no other time. After an error a commit still waits,
// as writing, until no shard writes into its folder any more; then the folder is deleted. From done
// and failed the next Freeze begins.
#pragma once

#include <chrono>
#include <cstdint>

#include "common/clock.h"
#include "common/status.h"

namespace savior {

class CommitShards {
 public:
  virtual ~CommitShards() = default;
  // Every shard begins a checkpoint; returns when all have frozen.
  [[nodiscard]] virtual absl::Status Freeze(int64_t step) = 0;
  // False: a shard is still writing. Errors: none is, and at least one has no checkpoint.
  [[nodiscard]] virtual absl::StatusOr<bool> Written(int64_t step) = 0;
};

class CommitFiles {
 public:
  virtual ~CommitFiles() = default;
  // Makes the folder that shards write into. Fast.
  [[nodiscard]] virtual absl::Status Begin(int64_t step) = 0;
  // The lead's own files.
  [[nodiscard]] virtual absl::Status WriteOwn(int64_t step) = 0;
  // All files are there: makes a commit of them, durably.
  [[nodiscard]] virtual absl::Status Publish(int64_t step) = 0;
  // Deletes what there is of a commit that failed.
  virtual void Discard(int64_t step) = 0;
};

enum class CommitState { kIdle, kFreezing, kWriting, kPublishing, kDone, kFailed };

// Thread-compatible: Freeze on one thread and Advance on another must not overlap.
class CommitFlow {
 public:
  struct Options {
    // Until shards have written, from the freeze on; then the commit fails.
    std::chrono::milliseconds limit{std::chrono::minutes{10}};
    Deadline (*now)() = &SteadyClock::now;
  };

  // Both outlive the flow.
  CommitFlow(CommitShards* shards, CommitFiles* files, const Options& options)
      : shards_(*shards), files_(*files), options_(options) {}

  // Begins the commit at `step`; none is under way. After it pushes may come, also if it failed:
  // then Advance has to be called all the same.
  [[nodiscard]] absl::Status Freeze(int64_t step);
  // One piece of work; may block while it reads and writes files. False: there is nothing to do
  // before some time has passed.
  bool Advance();

  CommitState state() const { return state_; }
  bool under_way() const {
    return state_ != CommitState::kIdle && state_ != CommitState::kDone &&
           state_ != CommitState::kFailed;
  }
  int64_t step() const { return step_; }  // of the newest
  // Why the newest failed, or will.
  const absl::Status& failure() const { return failure_; }
  // How long the newest freeze took.
  SteadyClock::duration frozen_for() const { return frozen_for_; }
  // When the newest began.
  Deadline began() const { return began_; }

 private:
  bool Write();

  CommitShards& shards_;
  CommitFiles& files_;
  const Options options_;
  CommitState state_ = CommitState::kIdle;
  int64_t step_ = -1;
  bool own_written_ = false;
  absl::Status failure_;
  Deadline began_;
  SteadyClock::duration frozen_for_{};
};

}  // namespace savior
