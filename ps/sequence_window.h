// Which requests have been applied, so that one that is sent again is applied once.
//
// A client numbers its requests to a shard 1, 2, 3, ... and repeats what is not answered in time;
// copies may come late and in any order. It never has more than kSequenceWindow numbers between its
// oldest unanswered request and its newest, so the shard need remember no more than that.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>

#include "common/sequence.h"
#include "common/status.h"

namespace savior {

// Of one client. Law: bit b of seen_ says that highest_ - b has been applied; highest_ is the
// highest number applied, 0 before the first.
class SequenceWindow {
 public:
  enum class Verdict : uint8_t {
    kNew,      // apply it
    kApplied,  // it has been applied
    kTooOld,   // cannot tell: no client that keeps to its bound asks
  };

  // sequence > 0.
  Verdict Look(uint64_t sequence) const;
  // `sequence` has been applied; it was kNew.
  void Mark(uint64_t sequence);

 private:
  uint64_t highest_ = 0;
  uint64_t seen_ = 0;
};

// Of all clients of a shard, in this incarnation of the run. Single-threaded.
class SequenceWindows {
 public:
  // A forgotten client could have a push applied twice, so none is: beyond this many there is no
  // room for new ones.
  static constexpr size_t kMaxClients = 65536;

  // True: apply the request, then Mark it. False: it has been applied. kFailedPrecondition: too old
  // to tell. kResourceExhausted: too many clients. kInvalidArgument: sequence 0.
  [[nodiscard]] absl::StatusOr<bool> IsNew(uint64_t client, uint64_t sequence);
  void Mark(uint64_t client, uint64_t sequence) { windows_[client].Mark(sequence); }

 private:
  absl::flat_hash_map<uint64_t, SequenceWindow> windows_;
};

}  // namespace savior
