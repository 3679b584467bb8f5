// Who does what in a run of many processes: pure functions of what each process says about itself.
//
// Every process of the run computes the same from the same cards, so nobody has to tell anybody.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace savior {

enum class Role : uint8_t {
  kServer,  // hosts shards
  kWorker,  // computes
  kBoth,    // the only process of its node, or alone
};

constexpr bool IsServer(Role role) { return role != Role::kWorker; }
constexpr bool IsWorker(Role role) { return role != Role::kServer; }
const char* NameOf(Role role);

// What a process says about itself at the start.
struct RankCard {
  std::string host;
  int64_t pid = 0;
  std::string role;          // --role: server, worker, both; empty: as the configuration says
  std::string version;       // of the program
  std::string program;       // digest of the program's file
  std::string config;        // the resolved configuration, as TOML
  std::string public_key;    // CURVE
  uint64_t incarnation = 0;  // rank 0's is the run's
  // GPUs that it can use, as FindGpus (worker/device.h) names them; not looked for where
  // cluster.device is "cpu".
  std::vector<std::string> gpus;
  std::string no_gpu;  // why there are none

  std::string Encode() const;
  // kDataLoss: not a card.
  [[nodiscard]] static absl::StatusOr<RankCard> Decode(std::string_view bytes);
};

// kInvalidArgument if two processes differ in program, version or configuration: names the field
// and the two ranks. Tables are a function of the configuration.
[[nodiscard]] absl::Status CheckCards(const std::vector<RankCard>& cards);

// Ranks of servers and workers, and which shards are where.
struct Placement {
  std::vector<Role> roles;         // [ranks]
  std::vector<std::string> hosts;  // [ranks]
  std::vector<uint32_t> servers;   // ranks of servers, ascending
  std::vector<uint32_t> workers;   // ranks of workers, ascending: worker w is workers[w]
  uint32_t shards = 1;

  // Shards of server number `server`: [first, first + count), count >= 1.
  uint32_t FirstShard(uint32_t server) const;
  uint32_t ShardCount(uint32_t server) const;
  // Of the worker at `rank`: its number among those of its host.
  uint32_t LocalWorker(uint32_t rank) const;
  // The rank of the worker that writes commits and results.
  uint32_t lead() const { return workers[0]; }
  bool one_host() const;
  // "rank 3 (worker on node2)".
  std::string NameOfRank(uint32_t rank) const;
  // "2 servers with 4 shards, 3 workers on 2 hosts".
  std::string Describe() const;
};

// kInvalidArgument names the key of cluster.* and the node that do not fit the processes there are.
[[nodiscard]] absl::StatusOr<Placement> Place(const Config& config,
                                              const std::vector<RankCard>& cards);

// Where all workers compute.
struct DeviceChoice {
  std::string device;  // "cpu" or "cuda"
  std::string why;  // "auto" and "cpu" although some have a GPU: who has none of its own, and why
};

// By `choice`, the configuration's cluster.device. "auto": on GPUs if every worker has one of its
// own (NCCL takes no two of a GPU), else all on CPUs, since workers on both would wait for the slow
// ones, differ in their bits, and have no way of summing that suits all. kInvalidArgument: "cuda",
// and a worker has none, or would share one (named).
[[nodiscard]] absl::StatusOr<DeviceChoice> AgreeOnDevice(const std::string& choice,
                                                         const Placement& placement,
                                                         const std::vector<RankCard>& cards);

}  // namespace savior
