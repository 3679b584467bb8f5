#include "launcher/commit_flow.h"

#include <fmt/format.h>
#include <glog/logging.h>

namespace savior {

absl::Status CommitFlow::Freeze(int64_t step) {
  CHECK(!under_way()) << "commit " << step << " while " << step_ << " is under way";
  state_ = CommitState::kFreezing;
  step_ = step;
  own_written_ = false;
  began_ = options_.now();
  failure_ = files_.Begin(step);
  if (failure_.ok()) failure_ = shards_.Freeze(step);
  frozen_for_ = options_.now() - began_;
  state_ = CommitState::kWriting;
  return failure_;
}

bool CommitFlow::Advance() {
  switch (state_) {
    case CommitState::kWriting:
      return Write();
    case CommitState::kPublishing:
      failure_ = files_.Publish(step_);
      if (!failure_.ok()) files_.Discard(step_);
      state_ = failure_.ok() ? CommitState::kDone : CommitState::kFailed;
      return true;
    case CommitState::kIdle:
    case CommitState::kFreezing:
    case CommitState::kDone:
    case CommitState::kFailed:
      return false;
  }
  return false;
}

bool CommitFlow::Write() {
  if (!own_written_ && failure_.ok()) {
    own_written_ = true;
    failure_ = files_.WriteOwn(step_);
    return true;
  }
  absl::StatusOr<bool> written = shards_.Written(step_);
  if (written.ok() && !*written) {
    if (options_.now() < began_ + options_.limit) return false;
    written = absl::DeadlineExceededError(
        fmt::format("the shards have not written their checkpoints of step {} within {} s", step_,
                    std::chrono::duration_cast<std::chrono::seconds>(options_.limit).count()));
  }
  // The first error is the reason; that shards say so, too, when one never froze, is not.
  if (failure_.ok()) failure_ = written.status();
  if (failure_.ok()) {
    state_ = CommitState::kPublishing;
  } else {
    files_.Discard(step_);
    state_ = CommitState::kFailed;
  }
  return true;
}

}  // namespace savior
