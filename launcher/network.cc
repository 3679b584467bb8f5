#include "launcher/network.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace savior {
namespace {

std::string Text(const sockaddr* address) {
  std::array<char, INET_ADDRSTRLEN> text{};
  const auto* const ipv4 = reinterpret_cast<const sockaddr_in*>(address);
  return ::inet_ntop(AF_INET, &ipv4->sin_addr, text.data(), text.size()) ? text.data() : "";
}

absl::StatusOr<std::vector<NetworkInterface>> ListInterfaces() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) {
    return absl::InternalError(fmt::format("listing network interfaces: {}", std::strerror(errno)));
  }
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
  std::vector<NetworkInterface> all;
  // An entry for every address, and one for the hardware's, which is there without any other.
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    auto found = std::ranges::find(all, i->ifa_name, &NetworkInterface::name);
    if (found == all.end()) {
      found = all.insert(found, {.name = i->ifa_name,
                                 .up = (i->ifa_flags & IFF_UP) != 0,
                                 .loopback = (i->ifa_flags & IFF_LOOPBACK) != 0});
    }
    if (i->ifa_addr != nullptr && i->ifa_addr->sa_family == AF_INET) {
      found->addresses.push_back(Text(i->ifa_addr));
    }
  }
  return all;
}

std::vector<std::string> AddressesNamed(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* list = nullptr;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &list) != 0) return {};
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  std::vector<std::string> addresses;
  for (const addrinfo* a = list; a != nullptr; a = a->ai_next) {
    addresses.push_back(Text(a->ai_addr));
  }
  return addresses;
}

bool Usable(const NetworkInterface& interface) {
  return interface.up && !interface.addresses.empty();
}

// "is down"; "has no IPv4 address"; with its address if it can be used.
std::string StateOf(const NetworkInterface& interface) {
  if (!interface.up) return "is down";
  return interface.addresses.empty() ? "has no IPv4 address" : interface.addresses[0];
}

std::string Describe(const std::vector<NetworkInterface>& all) {
  std::vector<std::string> names;
  names.reserve(all.size());
  for (const NetworkInterface& i : all) names.push_back(fmt::format("{} ({})", i.name, StateOf(i)));
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::string HostName() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

absl::StatusOr<std::string> AddressOf(const std::string& interface) {
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<NetworkInterface> all, ListInterfaces());
  const std::string host = HostName();
  return PickAddress(interface, all, host, AddressesNamed(host));
}

absl::StatusOr<std::string> PickAddress(const std::string& interface,
                                        const std::vector<NetworkInterface>& all,
                                        const std::string& host,
                                        const std::vector<std::string>& named) {
  if (!interface.empty()) {
    const auto found = std::ranges::find(all, interface, &NetworkInterface::name);
    if (found == all.end()) {
      return absl::InvalidArgumentError(
          fmt::format("cluster.interface = \"{}\": {} has no such network interface, but {}",
                      interface, host, Describe(all)));
    }
    if (Usable(*found)) return found->addresses[0];
    return absl::UnavailableError(
        fmt::format("cluster.interface = \"{}\": that of {} {}: bring it "
                    "up, or name another; {} has {}",
                    interface, host, StateOf(*found), host, Describe(all)));
  }
  const auto outward = [](const NetworkInterface& i) { return !i.loopback; };
  for (const std::string& address : named) {
    for (const NetworkInterface& i : all) {
      if (outward(i) && Usable(i) && std::ranges::find(i.addresses, address) != i.addresses.end()) {
        return address;
      }
    }
  }
  for (const NetworkInterface& i : all) {
    if (outward(i) && Usable(i)) return i.addresses[0];
  }
  if (std::ranges::any_of(all, outward)) {
    return absl::UnavailableError(
        fmt::format("{} has no network interface that is up with an IPv4 address, but loopback: {}",
                    host, Describe(all)));
  }
  return absl::InvalidArgumentError(
      fmt::format("{} has no network interface but loopback: {}", host, Describe(all)));
}

}  // namespace savior
