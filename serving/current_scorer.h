// Which scorer answers now.
#pragma once

#include <memory>
#include <mutex>
#include <utility>

#include "serving/scorer.h"

namespace savior {

// Thread-safe. Whoever got a scorer keeps it to the end of his request, whatever is set meanwhile;
// the last who lets go of an old one frees it.
class CurrentScorer {
 public:
  // Null before the first Set.
  std::shared_ptr<const Scorer> Get() const {
    const std::lock_guard lock(mutex_);
    return scorer_;
  }

  void Set(std::shared_ptr<const Scorer> scorer) {
    {
      const std::lock_guard lock(mutex_);
      scorer_.swap(scorer);
    }
    // What was current dies here, out of the lock, if nobody uses it.
  }

 private:
  // A mutex, held for the copy of a pointer: libstdc++'s atomic shared_ptr is one, too, and one
  // that thread sanitizers do not understand.
  mutable std::mutex mutex_;
  std::shared_ptr<const Scorer> scorer_;
};

}  // namespace savior
