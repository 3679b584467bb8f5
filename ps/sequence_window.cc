#include "ps/sequence_window.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

namespace savior {

static_assert(kSequenceWindow == 64, "one bit each");

SequenceWindow::Verdict SequenceWindow::Look(uint64_t sequence) const {
  if (sequence > highest_) return Verdict::kNew;
  const uint64_t back = highest_ - sequence;
  if (back >= kSequenceWindow) return Verdict::kTooOld;
  return (seen_ >> back & 1) != 0 ? Verdict::kApplied : Verdict::kNew;
}

void SequenceWindow::Mark(uint64_t sequence) {
  DCHECK(Look(sequence) == Verdict::kNew);
  if (sequence <= highest_) {
    seen_ |= uint64_t{1} << (highest_ - sequence);
    return;
  }
  const uint64_t forward = sequence - highest_;
  seen_ = forward >= kSequenceWindow ? 1 : seen_ << forward | 1;
  highest_ = sequence;
}

absl::StatusOr<bool> SequenceWindows::IsNew(uint64_t client, uint64_t sequence) {
  if (sequence == 0) return absl::InvalidArgumentError("sequence number 0");
  const auto found = windows_.find(client);
  if (found == windows_.end()) {
    if (windows_.size() < kMaxClients) return true;
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxClients, " clients have been here: restart the run"));
  }
  switch (found->second.Look(sequence)) {
    case SequenceWindow::Verdict::kNew:
      return true;
    case SequenceWindow::Verdict::kApplied:
      return false;
    case SequenceWindow::Verdict::kTooOld:
      break;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("request ", sequence, " is older than the ", kSequenceWindow,
                   " numbers that are remembered: it may have been applied"));
}

}  // namespace savior
