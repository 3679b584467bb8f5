// One process of a run of many: its places in the groups, its connections, its shards.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/transport.h"
#include "launcher/cluster.h"
#include "launcher/control.h"
#include "launcher/run_place.h"
#include "ps/server.h"
#include "ps/shard_host.h"
#include "worker/mpi_group.h"
#include "worker/mpi_world.h"

namespace savior {

// Members in the order in which they come to be. Used by one thread; the control link's thread ends
// the process when the run fails.
class ClusterProcess final : public RunPlace {
 public:
  explicit ClusterProcess(const Config& config) : config_(config) {}
  // Waits for the others to leave, so only where all went well.
  ~ClusterProcess() override;

  // Steps 1 and 2 of launcher/cluster_run.h. Before anything else.
  [[nodiscard]] absl::Status Join(const std::string& role);

  // 0 before it has joined.
  uint32_t rank() const { return world_ ? world_->rank() : 0; }
  Role role() const { return placement_.roles[rank()]; }
  // Null before it has joined.
  ControlLink* link() { return link_.get(); }
  // The coordinator says that all should stop.
  const std::atomic<bool>& stop() const { return stop_; }

  Group& workers() override { return *workers_; }
  Allreduce& allreduce() override { return *allreduce_; }
  std::string device() const override { return device_.device; }
  int64_t local_worker() const override;
  absl::StatusOr<RunStart> Agree(std::optional<RunStart> mine) override;
  // Opens and serves this process's shards, if it is a server, and connects to all, if a worker
  // (else null).
  absl::StatusOr<std::unique_ptr<RunStore>> OpenStore(const RunStart& start) override;

 private:
  absl::Status ExchangeCards(const std::string& role);
  absl::Status ConnectControl();
  absl::Status FormGroups();
  absl::Status CheckFolderIsShared();
  absl::Status Serve(const RunStart& start);
  // What every process gave, or the first error that one of them had instead (named).
  absl::StatusOr<std::vector<std::string>> Share(const absl::StatusOr<std::string>& mine,
                                                 Deadline deadline);
  bool encrypted() const;
  // To bind to, with port `offset` of cluster.port.
  absl::StatusOr<std::string> BindTo(int64_t offset) const;
  SocketSecurity ServerSecurity() const;
  SocketSecurity ClientSecurity(uint32_t server_rank) const;
  Deadline PhaseDeadline() const;

  const Config config_;
  const CurveKeys keys_ = CurveKeys::Make();  // before the context: libsodium's start
  Context context_;
  std::unique_ptr<MpiWorld> world_;
  std::unique_ptr<MpiGroup> everybody_;
  std::vector<RankCard> cards_;
  Placement placement_;
  DeviceChoice device_;
  std::atomic<bool> stop_ = false;
  std::unique_ptr<Coordinator> coordinator_;  // rank 0's
  std::unique_ptr<MpiGroup> workers_;
  std::unique_ptr<Allreduce> allreduce_;
  std::unique_ptr<ShardHost> host_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<ControlLink> link_;  // last: leaves first
};

}  // namespace savior
