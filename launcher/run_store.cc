#include "launcher/run_store.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <system_error>
#include <utility>
#include <vector>

#include "ps/local_store.h"
#include "worker/tables.h"

namespace savior {
namespace {

constexpr char kServerPrefix[] = "server-";

class LocalRunStore final : public RunStore {
 public:
  explicit LocalRunStore(std::unique_ptr<LocalStore> store) : store_(std::move(store)) {}

  EmbeddingStore& store() override { return *store_; }
  EmbeddingStore& background() override { return *store_; }  // it is thread-safe
  // Within one process nothing is ever late.
  absl::Status SwitchCodebook(uint32_t, Deadline) override { return absl::OkStatus(); }
  void UseCodebook(uint32_t) override {}
  uint32_t shards() const override { return store_->host().shards(); }
  std::string ServerOf(uint32_t) const override { return "this process"; }
  absl::Status Freeze(const CheckpointPlace& place, int64_t steps, Deadline deadline) override {
    return store_->Freeze(steps, place, deadline);
  }
  absl::StatusOr<bool> CheckpointWritten(int64_t steps, Deadline deadline) override {
    return store_->CheckpointWritten(steps, deadline);
  }

 private:
  const std::unique_ptr<LocalStore> store_;
};

}  // namespace

std::filesystem::path LiveFolder(const Config& config) {
  if (!config.ps.live_dir.empty()) return config.ps.live_dir;
  return std::filesystem::path(config.run.dir) / "live";
}

std::filesystem::path ServerFolder(const Config& config, uint32_t server) {
  return LiveFolder(config) / absl::StrCat(kServerPrefix, server);
}

void RemoveUnusedServerFolders(const std::filesystem::path& live, uint32_t servers) {
  std::vector<std::filesystem::path> unused;
  std::error_code error;
  std::filesystem::directory_iterator entry(live, error);
  while (!error && entry != std::filesystem::directory_iterator()) {
    const std::string name = entry->path().filename().string();
    uint32_t server = 0;
    if (name.starts_with(kServerPrefix) &&
        absl::SimpleAtoi(name.substr(sizeof(kServerPrefix) - 1), &server) && server >= servers &&
        name == absl::StrCat(kServerPrefix, server) &&  // no "server-+7", no "server-07"
        entry->symlink_status(error).type() == std::filesystem::file_type::directory) {
      unused.push_back(entry->path());
    }
    entry.increment(error);
  }
  for (const std::filesystem::path& folder : unused) {
    const absl::Status removed = RemoveLiveFolder(folder);
    if (removed.ok()) {
      LOG(INFO) << "removed " << folder.string() << ", of an earlier start with more servers";
    } else {
      LOG(WARNING) << "left as it is: " << folder.string() << ": " << removed.message();
    }
  }
}

ShardHostOptions HostOptions(const Config& config, const std::filesystem::path& folder,
                             const std::filesystem::path& restore_from) {
  return {.tables = ModelTables(config),
          .shards = static_cast<uint32_t>(config.ps.shards),
          .ram_budget_bytes = static_cast<uint64_t>(config.ps.ram_budget_mb) << 20,
          .folder = folder,
          .seed = static_cast<uint64_t>(config.seed),
          .steps_per_minute = static_cast<double>(config.ps.steps_per_minute),
          .restore_from = restore_from};
}

absl::StatusOr<std::unique_ptr<RunStore>> OpenLocalStore(
    const Config& config, const std::filesystem::path& live,
    const std::filesystem::path& restore_from) {
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<LocalStore> store,
                          LocalStore::Open(HostOptions(config, live, restore_from)));
  return std::make_unique<LocalRunStore>(std::move(store));
}

}  // namespace savior
