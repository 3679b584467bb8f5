#include "serving/bundle_watcher.h"

#include <fmt/format.h>
#include <glog/logging.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

namespace savior {
namespace {

constexpr int kNice = 10;  // of the thread that loads

}  // namespace

bool ReloadPolicy::ShouldLoad(const std::string& version, Deadline now) const {
  if (version == loaded_) return false;
  return version != failing_ || now >= next_attempt_;
}

void ReloadPolicy::Loaded(const std::string& version) {
  loaded_ = version;
  failing_.clear();
}

bool ReloadPolicy::Failed(const std::string& version, Deadline now) {
  const bool news = version != failing_;
  wait_ = news ? first_ : std::min(2 * wait_, longest_);
  failing_ = version;
  next_attempt_ = now + wait_;
  return news;
}

BundleWatcher::BundleWatcher(WatcherOptions options, WhatIsCurrent what_is_current, Loader load,
                             CurrentScorer& current, ServingMetrics& metrics)
    : options_(options),
      what_is_current_(std::move(what_is_current)),
      load_(std::move(load)),
      current_(current),
      metrics_(metrics),
      policy_(Milliseconds(options.retry_s), Milliseconds(options.longest_retry_s)) {}

BundleWatcher::~BundleWatcher() { Stop(); }

absl::StatusOr<bool> BundleWatcher::Poll(Deadline now) {
  const absl::StatusOr<std::string> version = what_is_current_();
  if (!version.ok()) {
    const std::string message(version.status().message());
    if (message != last_lookup_) {
      LOG(ERROR) << "serving: looking for the current bundle: " << message
                 << "; what is loaded serves on";
    }
    last_lookup_ = message;
    return version.status();
  }
  last_lookup_.clear();
  if (!policy_.ShouldLoad(*version, now)) return false;
  if (absl::Status status = LoadAndSwap(*version); !status.ok()) {
    metrics_.LoadFailed();
    if (policy_.Failed(*version, now)) {
      LOG(ERROR) << "serving: loading bundle " << *version << ": " << std::string(status.message())
                 << "; what is loaded serves on, and this is tried again from time to time";
    }
    return Annotate(status, "loading bundle " + *version);
  }
  policy_.Loaded(*version);
  return true;
}

absl::Status BundleWatcher::LoadAndSwap(const std::string& version) {
  const auto begin = SteadyClock::now();
  SAVIOR_ASSIGN_OR_RETURN(std::shared_ptr<const Scorer> scorer, Load());
  const double took = SecondsSince(begin);
  const ModelCard& card = scorer->card();
  metrics_.Loaded(card.version, card.step, card.codebook_version, took);
  LOG(INFO) << fmt::format(
      "serving: bundle {} (version {}, {} items) answers from now on; loaded "
      "in {:.2f} s",
      version, card.version, card.items, took);
  current_.Set(std::move(scorer));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Scorer>> BundleWatcher::Load() const {
  try {
    SAVIOR_ASSIGN_OR_RETURN(std::shared_ptr<const Scorer> scorer, load_());
    if (scorer == nullptr) return absl::InternalError("the loader returned nothing");
    return scorer;
  } catch (const std::exception& e) {
    // A bundle that makes a library throw must not take the serving process with it.
    return absl::InternalError(e.what());
  }
}

void BundleWatcher::Start() {
  thread_ = std::thread([this] { Run(); });
}

void BundleWatcher::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void BundleWatcher::Run() {
  // Of this thread alone: loading a bundle can wait, requests cannot. Refused: as it was.
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, kNice));
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, Milliseconds(options_.poll_s), [this] { return stop_; })) {
    lock.unlock();
    static_cast<void>(Poll(SteadyClock::now()).ok());  // it has logged and counted what failed
    lock.lock();
  }
}

}  // namespace savior
