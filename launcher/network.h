// The network addresses of this machine.
#pragma once

#include <string>
#include <vector>

#include "common/status.h"

namespace savior {

// This machine's name.
std::string HostName();

// The IPv4 address that other machines reach this one at: of `interface`, or, if that is empty, the
// one that the host's name stands for, else of the first interface that is up and not loopback.
// Errors as of PickAddress.
[[nodiscard]] absl::StatusOr<std::string> AddressOf(const std::string& interface);

// As the system lists them.
struct NetworkInterface {
  std::string name;
  std::vector<std::string> addresses = {};  // IPv4
  bool up = false;
  bool loopback = false;
};

// AddressOf on a machine called `host` with interfaces `all`; `named`: the addresses that its name
// stands for. kInvalidArgument: there is no such interface, or none but loopback; what there is is
// named. kUnavailable: there is, but it is down, or has no IPv4 address: it may come back.
[[nodiscard]] absl::StatusOr<std::string> PickAddress(const std::string& interface,
                                                      const std::vector<NetworkInterface>& all,
                                                      const std::string& host,
                                                      const std::vector<std::string>& named);

}  // namespace savior
