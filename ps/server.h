// Lets other processes use shards of this one: one socket per shard, served on the shard's own
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/transport.h"
#include "ps/request_port.h"
#include "ps/shard_host.h"
#include "ps/step_clock.h"

namespace savior {

struct ServerOptions {
  // Of every shard: tcp://address:port, to which the shard's number is added, unless port is 0:
  // each takes a free one then; or ipc://path, to which "-<shard>" is added.
  std::string endpoint = {};
  // With keys (CURVE) the context's allow-list says who may connect.
  SocketSecurity security = {};
  // Requests of another incarnation of the run, or another codebook version, are refused.
  uint64_t incarnation = 0;
  uint32_t codebook_version = 0;
  // Who pushes, and how far apart. None: pulls and pushes are served as they come.
  std::optional<StepRules> steps = std::nullopt;
  // Where a shard's checkpoint of the commit at `step` belongs. None: checkpoints are refused.
  std::function<CheckpointPlace(int64_t step, uint32_t shard)> checkpoint_place = nullptr;
  // Of requests that wait for their step, per shard: beyond that they are refused, and clients ask
  // again. A pull waits with 8 bytes a key.
  size_t max_waiting_bytes = size_t{256} << 20;
  // Statistics say how much CPU time this process has used: where nobody else counts it.
  bool counts_cpu = false;
};

// Serves from Start until it is destroyed; in-process users of the shards go on beside it. A host
// has one server at a time. Which requests have been applied is forgotten with the server, so the
// next one serves another incarnation. Thread-compatible.
class Server {
 public:
  // host and context outlive the server. Errors: RouterSocket::Bind's, with the shard;
  // kUnavailable: the shards have been stopped.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Server>> Start(ShardHost* host,
                                                                     Context* context,
                                                                     ServerOptions options);
  // Requests under way are answered, waiting ones are not.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // What to connect to, [host's shards].
  const std::vector<std::string>& endpoints() const { return endpoints_; }

 private:
  explicit Server(ShardHost* host) : host_(host) {}

  ShardHost* const host_;
  std::vector<std::unique_ptr<RequestPort>> ports_;
  std::vector<std::string> endpoints_;
};

}  // namespace savior
