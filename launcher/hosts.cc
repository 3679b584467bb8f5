#include "launcher/hosts.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <set>

#include "common/files.h"
#include "launcher/child.h"
#include "launcher/network.h"

namespace savior {
namespace {

constexpr int64_t kMostRanks = 4096;

bool IsHostName(std::string_view name) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
  };
  return !name.empty() && name.front() != '-' && std::ranges::all_of(name, allowed);
}

std::vector<std::string> Words(const char* text) {
  return absl::StrSplit(text ? text : "", absl::ByAnyChar(" \t"), absl::SkipEmpty());
}

// What a host that is there lists its network interfaces with, a line each: "eth0: 1234 ...".
constexpr const char* kInterfaces = "/proc/net/dev";

// mpirun's agent is a list "ssh : rsh"; the first counts.
std::vector<std::string> ProbeCommand(const std::string& host, const std::string& interface) {
  const char* agents = std::getenv("OMPI_MCA_plm_rsh_agent");
  const std::string first = std::string(agents ? agents : "ssh");
  std::vector<std::string> command = Words(first.substr(0, first.find(':')).c_str());
  if (command.empty()) command = {"ssh"};
  const std::vector<std::string> arguments = Words(std::getenv("OMPI_MCA_plm_rsh_args"));
  command.insert(command.end(), arguments.begin(), arguments.end());
  for (const char* word : {"-o", "BatchMode=yes", "-o", "ConnectTimeout=3"}) {
    command.emplace_back(word);
  }
  command.push_back(host);
  if (interface.empty()) {
    command.emplace_back("true");
  } else {
    command.emplace_back("cat");
    command.emplace_back(kInterfaces);
  }
  return command;
}

// Why a host that answered cannot be used; empty: it can.
std::string WhatItLacks(const std::string& listed, const std::string& interface) {
  if (interface.empty()) return "";
  std::vector<std::string> names;
  const std::vector<std::string> lines = absl::StrSplit(listed, '\n');
  for (const std::string& line : lines) {
    const size_t colon = line.find(':');
    if (colon == line.npos) continue;
    names.emplace_back(absl::StripAsciiWhitespace(line.substr(0, colon)));
    if (names.back() == interface) return "";
  }
  return fmt::format("it has no network interface {} (cluster.interface), but {}", interface,
                     fmt::join(names, ", "));
}

std::string LastLine(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  return lines.empty() ? "" : lines.back();
}

}  // namespace

absl::StatusOr<std::vector<Host>> ParseHosts(const std::string& text, int64_t ranks) {
  std::vector<Host> hosts;
  std::set<std::string> seen;
  const std::vector<std::string> entries = absl::StrSplit(text, ',');
  for (const std::string& entry : entries) {
    const std::vector<std::string> parts = absl::StrSplit(entry, ':');
    Host host{.name = std::string(absl::StripAsciiWhitespace(parts[0])), .ranks = ranks};
    if (!IsHostName(host.name) || parts.size() > 2) {
      return absl::InvalidArgumentError(
          fmt::format("--hosts {}: \"{}\" is not host or host:ranks", text, entry));
    }
    if (parts.size() == 2 &&
        !(absl::SimpleAtoi(parts[1], &host.ranks) && host.ranks >= 1 && host.ranks <= kMostRanks)) {
      return absl::InvalidArgumentError(fmt::format(
          "--hosts {}: \"{}\": the number of ranks must be in [1, {}]", text, entry, kMostRanks));
    }
    if (!seen.insert(host.name).second) {
      return absl::InvalidArgumentError(fmt::format(
          "--hosts {}: {} is there twice; {}:2 puts two ranks on it", text, host.name, host.name));
    }
    hosts.push_back(std::move(host));
  }
  return hosts;
}

std::string ToString(const std::vector<Host>& hosts) {
  std::vector<std::string> entries;
  entries.reserve(hosts.size());
  for (const Host& host : hosts) entries.push_back(fmt::format("{}:{}", host.name, host.ranks));
  return fmt::format("{}", fmt::join(entries, ","));
}

std::string HostOfRank(const std::vector<Host>& hosts, int64_t rank) {
  for (const Host& host : hosts) {
    if (rank < host.ranks) return host.name;
    rank -= host.ranks;
  }
  return "";
}

int64_t RanksOn(const std::vector<Host>& hosts) {
  int64_t ranks = 0;
  for (const Host& host : hosts) ranks += host.ranks;
  return ranks;
}

bool IsThisMachine(const std::string& name) {
  return name == "localhost" || name == "127.0.0.1" || name == HostName();
}

Survivors ProbeHosts(const std::vector<Host>& hosts, const std::string& interface,
                     std::chrono::milliseconds timeout) {
  std::vector<std::vector<std::string>> commands;
  for (const Host& host : hosts) {
    if (!IsThisMachine(host.name)) commands.push_back(ProbeCommand(host.name, interface));
  }
  const std::vector<Finished> finished = RunAll(commands, timeout);
  Survivors survivors;
  auto probe = finished.begin();
  for (const Host& host : hosts) {
    std::string trouble;
    if (IsThisMachine(host.name)) {
      trouble = WhatItLacks(ReadFile(kInterfaces).value_or(""), interface);
    } else {
      if (probe->code == 0) {
        trouble = WhatItLacks(probe->out, interface);
      } else {
        const std::string said = LastLine(probe->err);
        trouble = said.empty() ? "ssh gets no answer from it" : "ssh: " + said;
      }
      ++probe;
    }
    if (trouble.empty()) {
      survivors.alive.push_back(host);
    } else {
      survivors.dead.push_back(fmt::format("{}: {}", host.name, trouble));
    }
  }
  return survivors;
}

Survivors ParseNodeStates(const std::string& sinfo, int64_t ranks) {
  Survivors survivors;
  std::set<std::string> seen;  // a node is listed once per partition
  const std::vector<std::string> lines = absl::StrSplit(sinfo, '\n', absl::SkipWhitespace());
  for (const std::string& line : lines) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
    if (words.size() != 2 || !seen.insert(words[0]).second) continue;
    const std::string& state = words[1];
    if (state == "alloc" || state == "mix" || state == "idle" || state == "comp") {
      survivors.alive.push_back({words[0], ranks});
    } else {
      survivors.dead.push_back(fmt::format("{}: Slurm says {}", words[0], state));
    }
  }
  return survivors;
}

absl::StatusOr<Survivors> NodesOfAllocation(int64_t ranks, std::chrono::milliseconds timeout) {
  const char* nodes = std::getenv("SLURM_JOB_NODELIST");
  if (nodes == nullptr) {
    return absl::FailedPreconditionError(
        "SLURM_JOB_ID is set but SLURM_JOB_NODELIST is not: this is no allocation of Slurm");
  }
  const std::vector<std::vector<std::string>> commands = {
      {"sinfo", "-h", "-N", "-n", nodes, "-o", "%N %t"}};
  const Finished sinfo = RunAll(commands, timeout).front();
  if (sinfo.code != 0) {
    return absl::UnavailableError(
        fmt::format("sinfo does not say which nodes are alive: {}", LastLine(sinfo.err)));
  }
  return ParseNodeStates(sinfo.out, ranks);
}

}  // namespace savior
