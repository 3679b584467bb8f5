// Hot reload: looks for a new bundle, loads it, swaps it in. What serves keeps serving.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "common/clock.h"
#include "common/status.h"
#include "serving/current_scorer.h"
#include "serving/serving_metrics.h"

namespace savior {

// When to load which version. Single-threaded, knows no clock.
class ReloadPolicy {
 public:
  // Waits between attempts at a version that fails: `first`, doubled each time, at most `longest`.
  ReloadPolicy(std::chrono::milliseconds first, std::chrono::milliseconds longest)
      : first_(first), longest_(longest) {}

  // Whether to load now, given that `version` is what should be served. Another version than the
  // one that failed is tried at once.
  bool ShouldLoad(const std::string& version, Deadline now) const;
  void Loaded(const std::string& version);
  // Whether this is news: the first failure of this version.
  bool Failed(const std::string& version, Deadline now);

 private:
  const std::chrono::milliseconds first_, longest_;
  std::string loaded_, failing_;  // "": none
  std::chrono::milliseconds wait_ = {};
  Deadline next_attempt_ = {};
};

struct WatcherOptions {
  double poll_s = 2;
  double retry_s = 2;  // after the first failure of a version; doubles
  double longest_retry_s = 60;
};

// Poll is for one thread at a time; Start and Stop are called by one thread, once each.
class BundleWatcher {
 public:
  // The name of the version that should be served, such as a link's target. Cheap; not empty.
  using WhatIsCurrent = std::function<absl::StatusOr<std::string>()>;
  // Opens it. Slow; exceptions count as failures.
  using Loader = std::function<absl::StatusOr<std::shared_ptr<const Scorer>>()>;

  // `current` and `metrics` outlive it.
  BundleWatcher(WatcherOptions options, WhatIsCurrent what_is_current, Loader load,
                CurrentScorer& current, ServingMetrics& metrics);
  ~BundleWatcher();  // stops
  BundleWatcher(const BundleWatcher&) = delete;
  BundleWatcher& operator=(const BundleWatcher&) = delete;

  // One look, and what follows from it. True: another scorer answers from now on. An error is what
  // went wrong now (it is logged and counted already; the old scorer serves on): before Start, it
  // tells whether there is anything to serve at all.
  [[nodiscard]] absl::StatusOr<bool> Poll(Deadline now);

  // Polls every poll_s on a thread of its own, of low priority.
  void Start();
  // Returns when a load that is under way has ended.
  void Stop();

 private:
  absl::Status LoadAndSwap(const std::string& version);
  absl::StatusOr<std::shared_ptr<const Scorer>> Load() const;
  void Run();

  const WatcherOptions options_;
  const WhatIsCurrent what_is_current_;
  const Loader load_;
  CurrentScorer& current_;
  ServingMetrics& metrics_;

  ReloadPolicy policy_;      // of who polls
  std::string last_lookup_;  // what_is_current's last error, "" after a success; of who polls

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace savior
