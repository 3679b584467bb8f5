#include "ps/server.h"

#include <absl/strings/str_cat.h>

#include <utility>

namespace savior {

absl::StatusOr<std::unique_ptr<Server>> Server::Start(LocalStore* store, Context* context,
                                                      ServerOptions options) {
  std::unique_ptr<Server> server(new Server(store));
  for (uint32_t s = 0; s < store->shards(); ++s) {
    const bool ipc = options.endpoint.starts_with("ipc://");
    const std::string endpoint = ipc ? absl::StrCat(options.endpoint, "-", s) : options.endpoint;
    absl::StatusOr<std::unique_ptr<RouterSocket>> socket =
        RouterSocket::Bind(context, endpoint, options.security);
    SAVIOR_RETURN_IF_ERROR(Annotate(socket.status(), absl::StrCat("shard ", s)));
    const ServedShard served{.shard = s,
                             .shards = store->shards(),
                             .incarnation = options.incarnation,
                             .codebook_version = options.codebook_version};
    server->ports_.push_back(std::make_unique<RequestPort>(
        served, store->tables(), &store->shard_thread(s), context, *std::move(socket)));
    server->endpoints_.push_back(server->ports_.back()->endpoint());
  }
  for (uint32_t s = 0; s < store->shards(); ++s) {
    if (!store->shard_thread(s).SetPort(server->ports_[s].get())) {
      return absl::UnavailableError(absl::StrCat("shard ", s, " has stopped"));
    }
  }
  return server;
}

Server::~Server() {
  // The threads let go of the ports before these close their sockets.
  for (uint32_t s = 0; s < ports_.size(); ++s) store_->shard_thread(s).SetPort(nullptr);
}

}  // namespace savior
