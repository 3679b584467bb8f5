#include "launcher/refresh_flow.h"

namespace savior {

void RefreshFlow::StartInProbation(int64_t since) {
  state_ = RefreshState::kProbation;
  since_ = since;
}

RefreshAction RefreshFlow::AfterStep(int64_t step, const RefreshVotes& votes) {
  step_ = step;
  switch (state_) {
    case RefreshState::kIdle:
      if (!votes.begin) return RefreshAction::kNone;
      state_ = RefreshState::kBuilding;
      since_ = step;
      return RefreshAction::kBegin;
    case RefreshState::kBuilding: {
      if (votes.give_up) return Abort();
      const bool due = options_.switch_after_steps > 0
                           ? step >= since_ + options_.switch_after_steps
                           : !votes.busy && step > since_;
      return due ? RefreshAction::kJudge : RefreshAction::kNone;
    }
    case RefreshState::kPrepared:
      state_ = RefreshState::kProbation;
      since_ = step;
      return RefreshAction::kSwitch;
    case RefreshState::kProbation:
      if (step < since_ + options_.probation_steps) return RefreshAction::kNone;
      state_ = RefreshState::kIdle;
      return RefreshAction::kRetire;
  }
  return RefreshAction::kNone;
}

RefreshAction RefreshFlow::Judged(bool good) {
  if (!good) return Abort();
  if (options_.switch_after_steps > 0) {
    state_ = RefreshState::kProbation;
    since_ = step_;
    return RefreshAction::kSwitch;
  }
  state_ = RefreshState::kPrepared;
  return RefreshAction::kPrepare;
}

RefreshAction RefreshFlow::Abort() {
  state_ = RefreshState::kIdle;
  return RefreshAction::kAbort;
}

}  // namespace savior
