// Publishes a run's commits as serving bundles while it goes on: `savior export` as a child process
// of low priority, one at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/config.h"
#include "common/status.h"
#include "launcher/child.h"
#include "launcher/publish_policy.h"

namespace savior {

struct PublisherOptions {
  std::filesystem::path run;  // the run's folder: commits/, and export/ for the child's own files
  Config::Export config;      // dir is set
  std::string program;        // savior
};

// A run's lead has one. What fails here is logged, counted and tried again when the next bundle is
// due; it never ends the run. Ends a running export when destroyed. Single-threaded; to be
// destroyed by the thread that made it, or the child may be taken for an orphan.
class Publisher {
 public:
  // Looks what the folder holds; the first bundle is due config.every_s after `now`.
  Publisher(PublisherOptions options, Deadline now);
  ~Publisher();
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  // After a step, and the beginning of a commit after it, if there was one: hands on what the child
  // says, sees whether it has ended, starts the next. step, committed, begun: PublishPolicy::Next;
  // only the commit at `committed` is ever read. Does not block, but for the start of a process and
  // a look at one bundle's manifest.
  void AfterStep(Deadline now, int64_t step, int64_t committed, int64_t begun);

  // Whether a bundle waits for a commit: one should be made after the next step.
  bool wants_commit() const { return wants_commit_; }
  // A commit failed (a full disk): the next is wanted when a bundle is due again.
  void NotCommitted(Deadline now) { policy_.Started(now); }
  // The commit that the running child reads, which must stay; empty: none runs.
  const std::filesystem::path& in_use() const { return in_use_; }

  // At the run's end: waits for what runs, and publishes the commit of step `committed`. Blocks
  // until that is done, or `give_up` says so.
  void Finish(int64_t committed, const std::function<bool()>& give_up);

  int64_t published() const { return published_; }
  int64_t failed() const { return failed_; }

 private:
  void Start(Deadline now, int64_t step, const PublishAction& action);
  // Hands on output, and takes note of the end.
  void Tend(Deadline now);
  void Ended(const std::string& failure);
  void Log(std::string& bytes, bool all);
  // False: it was given up.
  bool WaitForChild(const std::function<bool()>& give_up);
  std::optional<ChainEnd> FindEnd() const;

  const PublisherOptions options_;
  const std::filesystem::path commits_, scratch_;
  PublishPolicy policy_;
  std::unique_ptr<Child> child_;
  Deadline limit_;         // of child_
  std::string out_, err_;  // of child_: what has no newline yet
  std::filesystem::path in_use_;
  bool wants_commit_ = false;
  int64_t published_ = 0, failed_ = 0;
};

}  // namespace savior
