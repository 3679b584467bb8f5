#include "launcher/publish_policy.h"

namespace savior {

using Kind = PublishAction::Kind;

PublishPolicy::PublishPolicy(double every_s, int64_t full_every, Deadline start)
    : every_(Milliseconds(every_s)), full_every_(full_every), due_(start + every_) {}

PublishAction PublishPolicy::Next(Deadline now, int64_t step, int64_t committed, int64_t begun,
                                  bool running) {
  if (every_.count() == 0 || running || now < due_) return {};
  if (Export(step).kind == Kind::kNothing) return {};
  if (!due_step_) due_step_ = step;
  if (committed >= *due_step_) return Export(committed);
  if (begun >= *due_step_) return {};  // it is being written
  return {.kind = Kind::kCommit};
}

PublishAction PublishPolicy::Export(int64_t step) const {
  if (!end_) return {.kind = Kind::kFull};
  if (end_->step == step) return {};
  // A run that went on from an older commit is behind its own bundles: their chain ends there.
  if (end_->step > step || end_->sequence >= full_every_) return {.kind = Kind::kFull};
  return {.kind = Kind::kDelta, .since = end_->step};
}

void PublishPolicy::Started(Deadline now) {
  due_ = now + every_;
  due_step_.reset();
}

}  // namespace savior
