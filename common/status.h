// Errors: absl::Status and absl::StatusOr, and what the caller does with each code.
//
//   kInvalidArgument     bad input or configuration: tell the person, change nothing
//   kNotFound            the named thing is not there
//   kDataLoss            bytes on disk or wire are not what was written: refuse them, name the file
//   kUnavailable         the peer is away: safe to retry
//   kDeadlineExceeded    the wait is over
//   kResourceExhausted   disk, memory or file handles are used up
//   kFailedPrecondition  not now, or not in this state (a run folder in use, a stale version)
//
// Bytes from network, disk or configuration never reach glog's CHECK; CHECK is for our own bugs.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>
#include <utility>

namespace savior {

// `status` with `context` before its message, as it travels upwards: "reading runs/a/x: No such
// file". OK stays OK.
[[nodiscard]] inline absl::Status Annotate(const absl::Status& status, const std::string& context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), context + ": " + std::string(status.message()));
}

}  // namespace savior

// Returns from the enclosing function if `expression` (absl::Status) is not OK.
#define SAVIOR_RETURN_IF_ERROR(expression)                                                    \
  do {                                                                                        \
    if (absl::Status savior_status = (expression); !savior_status.ok()) return savior_status; \
  } while (false)

// `SAVIOR_ASSIGN_OR_RETURN(auto x, MakeX())`: x = the value, or returns the error.
// NOLINTBEGIN(bugprone-macro-parentheses): what is declared here cannot stand in parentheses.
#define SAVIOR_ASSIGN_OR_RETURN(lhs, expression) \
  SAVIOR_ASSIGN_OR_RETURN_IMPL(SAVIOR_CONCAT(savior_result_, __LINE__), lhs, expression)
#define SAVIOR_ASSIGN_OR_RETURN_IMPL(result, lhs, expression) \
  auto result = (expression);                                 \
  if (!result.ok()) return std::move(result).status();        \
  lhs = std::move(result).value()
#define SAVIOR_CONCAT(a, b) SAVIOR_CONCAT_IMPL(a, b)
#define SAVIOR_CONCAT_IMPL(a, b) a##b
// NOLINTEND(bugprone-macro-parentheses)
