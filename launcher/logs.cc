#include "launcher/logs.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "common/files.h"
#include "worker/data/prepare.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Waits for whoever else prepares the same log; a lock dies with its process, so this ends.
absl::StatusOr<std::unique_ptr<FileLock>> WaitForLock(const fs::path& path) {
  bool said = false;
  while (true) {
    absl::StatusOr<std::unique_ptr<FileLock>> lock = FileLock::Take(path);
    if (lock.ok() || !absl::IsFailedPrecondition(lock.status())) return lock;
    if (!said) LOG(INFO) << "waiting: " << lock.status().message();
    said = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

}  // namespace

fs::path LogCache(const Config& config) {
  if (!config.data.cache.empty()) return config.data.cache;
  if (const std::string cache = Environment("SAVIOR_CACHE"); !cache.empty())
    return fs::path(cache) / "logs";
  if (const std::string xdg = Environment("XDG_CACHE_HOME"); !xdg.empty())
    return fs::path(xdg) / "savior" / "logs";
  return fs::path(Environment("HOME")) / ".cache" / "savior" / "logs";
}

absl::StatusOr<std::unique_ptr<TrainingLog>> OpenOrPrepare(const Config& config) {
  if (config.data.raw.empty()) {
    return absl::InvalidArgumentError(
        "data.raw is not set: give the folder of the raw data set (docs/datasets.md), e.g. "
        "data.raw=my_data");
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::string fingerprint, RawFingerprint(config.data.raw));
  const fs::path cache = LogCache(config);
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(cache));
  const fs::path folder = cache / ("log-" + fingerprint);
  SAVIOR_ASSIGN_OR_RETURN(const auto lock, WaitForLock(folder.string() + ".turn"));
  if (!fs::exists(folder / "manifest.json")) {
    LOG(INFO) << "preparing " << config.data.raw << " -> " << folder.string();
    PrepareOptions options;
    options.raw = config.data.raw;
    options.out = folder;
    options.memory_bytes = config.data.prepare_memory_mb << 20;
    SAVIOR_ASSIGN_OR_RETURN(const PrepareSummary summary, Prepare(options));
    LOG(INFO) << fmt::format(
        "prepared {} impressions in {} requests, {} behaviours, {} users, {} items ({} without "
        "a vector, {} distinct contents)",
        summary.impressions, summary.requests, summary.behaviours, summary.users, summary.items,
        summary.items_without_vector, summary.contents);
  }
  return TrainingLog::Open(folder);
}

absl::StatusOr<Periods> PeriodsOf(const Config& config) {
  const Config::Data& d = config.data;
  const auto date = [](const char* key, const std::string& text) -> absl::StatusOr<int64_t> {
    if (text.empty()) {
      return absl::InvalidArgumentError(
          fmt::format("{} is not set: give a day like {}=2017-04-30", key, key));
    }
    return ParseDate(text);
  };
  Periods periods;
  SAVIOR_ASSIGN_OR_RETURN(periods.training.from, date("data.train_from", d.train_from));
  SAVIOR_ASSIGN_OR_RETURN(periods.training.until, date("data.train_until", d.train_until));
  SAVIOR_ASSIGN_OR_RETURN(periods.evaluation.from, date("data.eval_from", d.eval_from));
  SAVIOR_ASSIGN_OR_RETURN(periods.evaluation.until, date("data.eval_until", d.eval_until));
  return periods;
}

}  // namespace savior
