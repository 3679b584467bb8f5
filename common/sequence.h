// What client and shard agree on about sequence numbers (ps/sequence_window.h).
#pragma once

#include <cstdint>

namespace savior {

// Sequence numbers from a client's oldest unanswered request to its newest, both included, at most.
inline constexpr uint64_t kSequenceWindow = 64;

}  // namespace savior
