// The network addresses of this machine.
#pragma once

#include <string>

#include "common/status.h"

namespace savior {

// This machine's name.
std::string HostName();

// The IPv4 address that other machines reach this one at: of `interface`, or, if that is empty, the
// one that the host's name stands for, else of the first interface that is up and not loopback.
// kInvalidArgument: no such interface, or it has no IPv4 address; those that there are are named.
[[nodiscard]] absl::StatusOr<std::string> AddressOf(const std::string& interface);

}  // namespace savior
