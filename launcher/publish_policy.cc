#include "launcher/publish_policy.h"

namespace savior {

using Kind = PublishAction::Kind;

PublishPolicy::PublishPolicy(double every_s, int64_t full_every, Deadline start)
    : every_(Milliseconds(every_s)), full_every_(full_every), due_(start + every_) {}

PublishAction PublishPolicy::Next(Deadline now, int64_t step, int64_t committed,
                                  bool running) const {
  if (every_.count() == 0 || running || now < due_) return {};
  const PublishAction action = Export(step);
  if (action.kind == Kind::kNothing || committed == step) return action;
  return {.kind = Kind::kCommit};
}

PublishAction PublishPolicy::Export(int64_t step) const {
  if (!end_) return {.kind = Kind::kFull};
  if (end_->step == step) return {};
  // A run that went on from an older commit is behind its own bundles: their chain ends there.
  if (end_->step > step || end_->sequence >= full_every_) return {.kind = Kind::kFull};
  return {.kind = Kind::kDelta, .since = end_->step};
}

void PublishPolicy::Started(Deadline now) { due_ = now + every_; }

}  // namespace savior
