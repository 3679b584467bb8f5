// Sums and agreement over a group of processes, for what has to have the same bits at all of them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/group.h"

namespace savior {

// Replaces `values` by their sums over the group, added in the order of the ranks: every member
// gets the same bits, and gets them again in the next run. All members give as many. Moves size()
// times the bytes of `values` to every member: for arrays of megabytes. Errors: Allgather's;
// kFailedPrecondition: the members gave different numbers of values.
[[nodiscard]] absl::Status SumOverGroup(Group* group, std::span<double> values, Deadline deadline);

// What every member said, by rank. kFailedPrecondition: one said no number.
[[nodiscard]] absl::StatusOr<std::vector<int64_t>> NumbersOf(Group* group, int64_t mine,
                                                             Deadline deadline);

// SHA-256 in hex.
std::string Sha256(std::string_view bytes);

// kInternal if the members' `bytes` are not the same, by their SHA-256; `what` names them, and the
// message the first rank that differs. Returns the digest.
[[nodiscard]] absl::StatusOr<std::string> AgreeOn(Group* group, std::string_view what,
                                                  std::string_view bytes, Deadline deadline);

}  // namespace savior
