#include "launcher/remote_run_store.h"

#include <glog/logging.h>

#include <utility>

namespace savior {

absl::StatusOr<std::unique_ptr<RemoteRunStore>> RemoteRunStore::Connect(
    Context* context, RemoteStoreOptions options, std::vector<std::string> servers) {
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<RemoteStore> store,
                          RemoteStore::Connect(context, options));
  return std::unique_ptr<RemoteRunStore>(
      new RemoteRunStore(context, std::move(options), std::move(store), std::move(servers)));
}

RemoteRunStore::RemoteRunStore(Context* context, RemoteStoreOptions options,
                               std::unique_ptr<RemoteStore> store, std::vector<std::string> servers)
    : context_(context),
      options_(std::move(options)),
      servers_(std::move(servers)),
      store_(std::move(store)) {}

EmbeddingStore& RemoteRunStore::background() {
  const std::lock_guard lock(mutex_);
  if (background_ != nullptr) return *background_;
  RemoteStoreOptions options = options_;
  options.codebook_version = store_->codebook_version();
  options.clocked = false;
  absl::StatusOr<std::unique_ptr<RemoteStore>> made =
      RemoteStore::Connect(context_, std::move(options));
  if (!made.ok()) {
    // Out of sockets, say. The same rows, but callers take turns.
    LOG_EVERY_N(WARNING, 100) << "no second connection to the servers: " << made.status()
                              << "; work in the background shares the first one";
    return *store_;
  }
  background_ = *std::move(made);
  return *background_;
}

absl::Status RemoteRunStore::SwitchCodebook(uint32_t version, Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(store_->SwitchCodebook(version, deadline));
  UseCodebook(version);
  return absl::OkStatus();
}

void RemoteRunStore::UseCodebook(uint32_t version) {
  store_->UseCodebook(version);
  // After it, so that a second store that is being made just now does not miss it.
  const std::lock_guard lock(mutex_);
  if (background_ != nullptr) background_->UseCodebook(version);
}

}  // namespace savior
