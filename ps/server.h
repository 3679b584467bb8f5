// Lets other processes use a LocalStore: one socket per shard, served on the shard's own thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/transport.h"
#include "ps/local_store.h"
#include "ps/request_port.h"

namespace savior {

struct ServerOptions {
  // Of every shard: tcp://address:0 (each takes a free port), or ipc://path, to which "-<shard>" is
  // added.
  std::string endpoint;
  // With keys (CURVE) the context's allow-list says who may connect.
  SocketSecurity security = {};
  // Requests of another incarnation of the run, or another codebook version, are refused.
  uint64_t incarnation = 0;
  uint32_t codebook_version = 0;
};

// Serves from Start until it is destroyed; in-process users of the store go on beside it. A store
// has one server at a time. Which requests have been applied is forgotten with the server, so the
// next one serves another incarnation. Thread-compatible.
class Server {
 public:
  // store and context outlive the server. Errors: RouterSocket::Bind's, with the shard;
  // kUnavailable: the store has been stopped.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Server>> Start(LocalStore* store,
                                                                     Context* context,
                                                                     ServerOptions options);
  // Requests under way are answered, waiting ones are not.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // What to connect to, [shards].
  const std::vector<std::string>& endpoints() const { return endpoints_; }

 private:
  explicit Server(LocalStore* store) : store_(store) {}

  LocalStore* const store_;
  std::vector<std::unique_ptr<RequestPort>> ports_;
  std::vector<std::string> endpoints_;
};

}  // namespace savior
