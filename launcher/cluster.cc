#include "launcher/cluster.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "common/routing.h"

namespace savior {
namespace {

using Json = nlohmann::json;

absl::Status Differ(const std::string& field, size_t rank, const RankCard& zero,
                    const RankCard& card) {
  return absl::InvalidArgumentError(fmt::format(
      "rank 0 on {} and rank {} on {} differ in {}: start all with the same program and "
      "configuration",
      zero.host, rank, card.host, field));
}

absl::StatusOr<std::string> ConfigDifference(const std::string& a, const std::string& b) {
  SAVIOR_ASSIGN_OR_RETURN(const Config left, ParseConfig(a));
  SAVIOR_ASSIGN_OR_RETURN(const Config right, ParseConfig(b));
  return fmt::format("{}", fmt::join(DifferentKeys(left, right), ", "));
}

std::optional<Role> RoleOf(const std::string& name) {
  for (const Role role : {Role::kServer, Role::kWorker, Role::kBoth}) {
    if (name == NameOf(role)) return role;
  }
  return std::nullopt;
}

// Ranks of each host, hosts in the order of their first rank.
std::vector<std::vector<uint32_t>> RanksByHost(const std::vector<RankCard>& cards) {
  std::map<std::string, size_t> place;
  std::vector<std::vector<uint32_t>> ranks;
  for (uint32_t r = 0; r < cards.size(); ++r) {
    const auto [entry, fresh] = place.try_emplace(cards[r].host, ranks.size());
    if (fresh) ranks.emplace_back();
    ranks[entry->second].push_back(r);
  }
  return ranks;
}

// By cluster.servers and cluster.workers: servers spread over the hosts, one on each before a
// second on any.
absl::Status PlaceTotals(const Config::Cluster& cluster,
                         const std::vector<std::vector<uint32_t>>& hosts, size_t ranks,
                         std::vector<Role>* roles) {
  const auto given = static_cast<int64_t>(ranks);
  const int64_t servers = cluster.servers > 0 ? cluster.servers : given - cluster.workers;
  const int64_t workers = cluster.workers > 0 ? cluster.workers : given - cluster.servers;
  if (servers < 1 || workers < 1 || servers + workers != given) {
    return absl::InvalidArgumentError(fmt::format(
        "cluster.servers = {} and cluster.workers = {} (0: the rest), but the run has {} processes",
        cluster.servers, cluster.workers, given));
  }
  std::ranges::fill(*roles, Role::kWorker);
  int64_t placed = 0;
  for (size_t round = 0; placed < servers; ++round) {
    for (const std::vector<uint32_t>& host : hosts) {
      if (round >= host.size() || placed == servers) continue;
      (*roles)[host[round]] = Role::kServer;
      ++placed;
    }
  }
  return absl::OkStatus();
}

absl::Status PlacePerNode(const Config::Cluster& cluster, const std::string& name,
                          const std::vector<uint32_t>& host, std::vector<Role>* roles) {
  const auto given = static_cast<int64_t>(host.size());
  if (given == 1 && cluster.servers_per_node <= 1 && cluster.workers_per_node <= 1) {
    (*roles)[host[0]] = Role::kBoth;
    return absl::OkStatus();
  }
  const int64_t servers = cluster.servers_per_node > 0 ? cluster.servers_per_node
                          : cluster.workers_per_node > 0
                              ? std::max<int64_t>(given - cluster.workers_per_node, 0)
                              : 1;
  const int64_t workers = cluster.workers_per_node > 0 ? cluster.workers_per_node : given - servers;
  if (servers < 1 || workers < 0 || servers + workers != given) {
    return absl::InvalidArgumentError(
        fmt::format("{} has {} processes: cluster.servers_per_node = {} and "
                    "cluster.workers_per_node = {} (0: the rest) do not fit",
                    name, given, cluster.servers_per_node, cluster.workers_per_node));
  }
  for (int64_t i = 0; i < given; ++i) {
    (*roles)[host[static_cast<size_t>(i)]] = i < servers ? Role::kServer : Role::kWorker;
  }
  return absl::OkStatus();
}

// Two workers that would compute on the same GPU; empty: there are none. All have GPUs.
std::string WhoSharesGpu(const Placement& placement, const std::vector<RankCard>& cards) {
  std::map<std::pair<std::string, std::string>, uint32_t> owners;  // of (host, GPU)
  for (const uint32_t rank : placement.workers) {
    const std::vector<std::string>& gpus = cards[rank].gpus;
    const std::string& gpu = gpus[placement.LocalWorker(rank) % gpus.size()];
    const auto [owner, alone] = owners.emplace(std::pair(placement.hosts[rank], gpu), rank);
    if (alone) continue;
    return fmt::format(
        "{} and {} would share GPU {}, and NCCL takes one worker per GPU: lower "
        "cluster.workers_per_node or cluster.workers, or set cluster.device = \"cpu\"",
        placement.NameOfRank(owner->second), placement.NameOfRank(rank), gpu);
  }
  return "";
}

}  // namespace

const char* NameOf(Role role) {
  switch (role) {
    case Role::kServer:
      return "server";
    case Role::kWorker:
      return "worker";
    default:
      return "both";
  }
}

std::string RankCard::Encode() const {
  return Json{
      {"host", host},       {"pid", pid},       {"role", role},      {"version", version},
      {"program", program}, {"config", config}, {"key", public_key}, {"incarnation", incarnation},
      {"gpus", gpus},       {"no_gpu", no_gpu}}
      .dump();
}

absl::StatusOr<RankCard> RankCard::Decode(std::string_view bytes) {
  try {
    const Json json = Json::parse(bytes);
    return RankCard{.host = json.at("host"),
                    .pid = json.at("pid"),
                    .role = json.at("role"),
                    .version = json.at("version"),
                    .program = json.at("program"),
                    .config = json.at("config"),
                    .public_key = json.at("key"),
                    .incarnation = json.at("incarnation"),
                    .gpus = json.at("gpus").get<std::vector<std::string>>(),
                    .no_gpu = json.at("no_gpu")};
  } catch (const Json::exception& e) {
    return absl::DataLossError(fmt::format(
        "what a process says about itself does not decode (another version of the program?): {}",
        e.what()));
  }
}

absl::Status CheckCards(const std::vector<RankCard>& cards) {
  const RankCard& zero = cards[0];
  for (size_t r = 1; r < cards.size(); ++r) {
    const RankCard& card = cards[r];
    if (card.version != zero.version) {
      return Differ(fmt::format("version ({} | {})", zero.version, card.version), r, zero, card);
    }
    if (card.config != zero.config) {
      SAVIOR_ASSIGN_OR_RETURN(const std::string keys, ConfigDifference(zero.config, card.config));
      return Differ(keys, r, zero, card);
    }
    if (card.program != zero.program) {
      return Differ(fmt::format("the program's file (digest {} | {})", zero.program, card.program),
                    r, zero, card);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Placement> Place(const Config& config, const std::vector<RankCard>& cards) {
  Placement placement;
  placement.roles.assign(cards.size(), Role::kBoth);
  for (const RankCard& card : cards) placement.hosts.push_back(card.host);
  const std::vector<std::vector<uint32_t>> hosts = RanksByHost(cards);
  if (config.cluster.servers > 0 || config.cluster.workers > 0) {
    SAVIOR_RETURN_IF_ERROR(PlaceTotals(config.cluster, hosts, cards.size(), &placement.roles));
  } else if (std::ranges::any_of(cards, [](const RankCard& card) { return card.role.empty(); })) {
    for (const std::vector<uint32_t>& host : hosts) {
      SAVIOR_RETURN_IF_ERROR(
          PlacePerNode(config.cluster, cards[host[0]].host, host, &placement.roles));
    }
  }
  for (uint32_t r = 0; r < cards.size(); ++r) {
    if (!cards[r].role.empty()) {
      const std::optional<Role> role = RoleOf(cards[r].role);
      if (!role.has_value()) {
        return absl::InvalidArgumentError(
            fmt::format("rank {}: --role {}: must be server, worker or both", r, cards[r].role));
      }
      placement.roles[r] = *role;
    }
    if (IsServer(placement.roles[r])) placement.servers.push_back(r);
    if (IsWorker(placement.roles[r])) placement.workers.push_back(r);
  }
  if (placement.servers.empty() || placement.workers.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("{} servers and {} workers: a run needs at least one of each",
                    placement.servers.size(), placement.workers.size()));
  }
  placement.shards = std::max(static_cast<uint32_t>(config.ps.shards),
                              static_cast<uint32_t>(placement.servers.size()));
  if (placement.shards > kBuckets) {
    return absl::InvalidArgumentError(fmt::format(
        "{} shards: at most {}, the number of buckets of keys", placement.shards, kBuckets));
  }
  return placement;
}

uint32_t Placement::FirstShard(uint32_t server) const {
  return static_cast<uint32_t>(uint64_t{server} * shards / servers.size());
}

uint32_t Placement::ShardCount(uint32_t server) const {
  return FirstShard(server + 1) - FirstShard(server);
}

uint32_t Placement::LocalWorker(uint32_t rank) const {
  return static_cast<uint32_t>(std::ranges::count_if(
      workers, [&](uint32_t other) { return other < rank && hosts[other] == hosts[rank]; }));
}

bool Placement::one_host() const {
  return std::ranges::all_of(hosts, [this](const std::string& host) { return host == hosts[0]; });
}

std::string Placement::NameOfRank(uint32_t rank) const {
  const char* const what = roles[rank] == Role::kBoth ? "server and worker" : NameOf(roles[rank]);
  return fmt::format("rank {} ({} on {})", rank, what, hosts[rank]);
}

std::string Placement::Describe() const {
  const std::set<std::string> names(hosts.begin(), hosts.end());
  const auto count = [](size_t n, const char* what) {
    return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
  };
  return fmt::format("{} with {}, {} on {}", count(servers.size(), "server"),
                     count(shards, "shard"), count(workers.size(), "worker"),
                     count(names.size(), "host"));
}

absl::StatusOr<DeviceChoice> AgreeOnDevice(const std::string& choice, const Placement& placement,
                                           const std::vector<RankCard>& cards) {
  if (choice == "cpu") return DeviceChoice{.device = "cpu", .why = ""};
  const auto has_one = [&](uint32_t rank) { return !cards[rank].gpus.empty(); };
  const auto without = std::ranges::find_if_not(placement.workers, has_one);
  const std::string who =
      without == placement.workers.end()
          ? WhoSharesGpu(placement, cards)
          : fmt::format("{}: {}", placement.NameOfRank(*without), cards[*without].no_gpu);
  if (who.empty()) return DeviceChoice{.device = "cuda", .why = ""};
  if (choice == "cuda") {
    return absl::InvalidArgumentError(fmt::format("cluster.device = \"cuda\": {}", who));
  }
  const bool mixed = std::ranges::any_of(placement.workers, has_one);
  return DeviceChoice{.device = "cpu", .why = mixed ? who : ""};
}

}  // namespace savior
