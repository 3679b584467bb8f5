#include "launcher/network.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace savior {
namespace {

struct Interface {
  std::string name;
  std::string address;
  bool loopback = false;
};

std::string Text(const sockaddr* address) {
  std::array<char, INET_ADDRSTRLEN> text{};
  const auto* const ipv4 = reinterpret_cast<const sockaddr_in*>(address);
  return ::inet_ntop(AF_INET, &ipv4->sin_addr, text.data(), text.size()) ? text.data() : "";
}

// Those that are up and have an IPv4 address.
absl::StatusOr<std::vector<Interface>> Interfaces() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) {
    return absl::InternalError(fmt::format("listing network interfaces: {}", std::strerror(errno)));
  }
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, &::freeifaddrs);
  std::vector<Interface> interfaces;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP)) {
      continue;
    }
    interfaces.push_back({i->ifa_name, Text(i->ifa_addr), (i->ifa_flags & IFF_LOOPBACK) != 0});
  }
  return interfaces;
}

// The address of this host's name, if it is one of `interfaces` beyond loopback.
std::string NamedAddress(const std::vector<Interface>& interfaces) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* list = nullptr;
  if (::getaddrinfo(HostName().c_str(), nullptr, &hints, &list) != 0) return "";
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  for (const addrinfo* a = list; a != nullptr; a = a->ai_next) {
    std::string address = Text(a->ai_addr);
    for (const Interface& i : interfaces) {
      if (i.address == address && !i.loopback) return address;
    }
  }
  return "";
}

}  // namespace

std::string HostName() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

absl::StatusOr<std::string> AddressOf(const std::string& interface) {
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<Interface> interfaces, Interfaces());
  std::vector<std::string> names;
  for (const Interface& i : interfaces) {
    if (i.name == interface) return i.address;
    names.push_back(fmt::format("{} ({})", i.name, i.address));
  }
  if (!interface.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("cluster.interface = \"{}\": {} has no such interface that is up with an IPv4 "
                    "address; it has {}",
                    interface, HostName(), fmt::join(names, ", ")));
  }
  if (std::string address = NamedAddress(interfaces); !address.empty()) return address;
  for (const Interface& i : interfaces) {
    if (!i.loopback) return i.address;
  }
  return absl::InvalidArgumentError(
      fmt::format("{} has no network interface but loopback ({}): name one by cluster.interface",
                  HostName(), fmt::join(names, ", ")));
}

}  // namespace savior
