// When a training run publishes a bundle, and of which kind.
#pragma once

#include <cstdint>
#include <optional>

#include "common/clock.h"

namespace savior {

// A bundle that the next one may be based on.
struct ChainEnd {
  int64_t step = 0;
  int64_t sequence = 0;  // deltas since the full bundle
};

struct PublishAction {
  enum class Kind {
    kNothing,
    kCommit,  // first, after the next step: there is no commit of now
    kFull,
    kDelta,
  };
  Kind kind = Kind::kNothing;
  int64_t since = 0;  // kDelta: step of the base

  bool operator==(const PublishAction&) const = default;
};

// One bundle at a time, every_s apart from start to start, or later if one takes longer; each is of
// a commit that was begun when it was due, or later. Single-threaded, knows no clock, file or
// process.
class PublishPolicy {
 public:
  // The first is due every_s after `start`; every_s 0: none ever is. `full_every`: deltas between
  // two full bundles.
  PublishPolicy(double every_s, int64_t full_every, Deadline start);

  // What to do when `step` steps are done, the newest commit is of step `committed`, the newest one
  // begun of step `begun`, and an export is `running` or not. kFull and kDelta are of the commit at
  // `committed`.
  PublishAction Next(Deadline now, int64_t step, int64_t committed, int64_t begun, bool running);
  // As what the commit of `step` would be exported: kNothing, kFull or kDelta.
  PublishAction Export(int64_t step) const;

  // An export began.
  void Started(Deadline now);
  // What can be based on now; none: the next bundle is a full one. At the start, and after each
  // export; after one that failed, none: whatever was wrong with the chain, a full bundle ends it.
  void Found(std::optional<ChainEnd> end) { end_ = end; }

 private:
  const std::chrono::milliseconds every_;
  const int64_t full_every_;
  Deadline due_;
  std::optional<ChainEnd> end_;
  std::optional<int64_t> due_step_;  // where the next bundle was found to be due
};

}  // namespace savior
