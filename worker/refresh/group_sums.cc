#include "worker/refresh/group_sums.h"

#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <openssl/sha.h>

#include <cstring>
#include <vector>

namespace savior {

absl::Status SumOverGroup(Group* group, std::span<double> values, Deadline deadline) {
  if (group->size() == 1) return absl::OkStatus();
  const std::string_view mine(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all, group->Allgather(mine, deadline));
  std::vector<double> theirs(values.size());
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].size() != values.size_bytes()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "worker ", r, " gave ", all[r].size(), " bytes to a sum of ", values.size_bytes()));
    }
    std::memcpy(theirs.data(), all[r].data(), all[r].size());
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = r == 0 ? theirs[i] : values[i] + theirs[i];
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> NumbersOf(Group* group, int64_t mine, Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          group->Allgather(absl::StrCat(mine), deadline));
  std::vector<int64_t> numbers(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    if (absl::SimpleAtoi(all[r], &numbers[r])) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("worker ", r, " does something else than saying a number"));
  }
  return numbers;
}

std::string Sha256(std::string_view bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return absl::BytesToHexString(digest);
}

absl::StatusOr<std::string> AgreeOn(Group* group, std::string_view what, std::string_view bytes,
                                    Deadline deadline) {
  const std::string mine = Sha256(bytes);
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all, group->Allgather(mine, deadline));
  for (size_t r = 1; r < all.size(); ++r) {
    if (all[r] == all[0]) continue;
    return absl::InternalError(absl::StrCat("workers 0 and ", r, " have another ",
                                            std::string(what), " (SHA-256 ", all[0], " | ", all[r],
                                            "): are they machines of one kind?"));
  }
  return mine;
}

}  // namespace savior
