#include "ps/server.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <utility>

namespace savior {
namespace {

// The endpoint of one shard.
std::string EndpointOf(const std::string& endpoint, uint32_t shard) {
  if (endpoint.starts_with("ipc://")) return absl::StrCat(endpoint, "-", shard);
  const size_t colon = endpoint.rfind(':');
  uint32_t port = 0;
  if (!absl::SimpleAtoi(endpoint.substr(colon + 1), &port) || port == 0) return endpoint;
  return absl::StrCat(endpoint.substr(0, colon + 1), port + shard);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ShardHost* host, Context* context,
                                                      ServerOptions options) {
  std::unique_ptr<Server> server(new Server(host));
  for (uint32_t i = 0; i < host->count(); ++i) {
    const uint32_t s = host->first() + i;
    absl::StatusOr<std::unique_ptr<RouterSocket>> socket =
        RouterSocket::Bind(context, EndpointOf(options.endpoint, s), options.security);
    SAVIOR_RETURN_IF_ERROR(Annotate(socket.status(), absl::StrCat("shard ", s)));
    const ServedShard served{.shard = s,
                             .shards = host->shards(),
                             .incarnation = options.incarnation,
                             .codebook_version = options.codebook_version};
    const RequestPortOptions port{.steps = options.steps,
                                  .checkpoint_place = options.checkpoint_place,
                                  // The first one speaks for the process.
                                  .counts_cpu = options.counts_cpu && i == 0,
                                  .max_waiting_bytes = options.max_waiting_bytes};
    server->ports_.push_back(std::make_unique<RequestPort>(
        served, host->tables(), port, &host->thread(s), context, *std::move(socket)));
    server->endpoints_.push_back(server->ports_.back()->endpoint());
  }
  for (uint32_t i = 0; i < host->count(); ++i) {
    if (!host->thread(host->first() + i).SetPort(server->ports_[i].get())) {
      return absl::UnavailableError(absl::StrCat("shard ", host->first() + i, " has stopped"));
    }
  }
  return server;
}

Server::~Server() {
  // The threads let go of the ports before these close their sockets.
  for (uint32_t i = 0; i < ports_.size(); ++i) host_->thread(host_->first() + i).SetPort(nullptr);
}

}  // namespace savior
