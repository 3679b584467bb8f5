// The thread that owns a shard, its mailbox, and the port that other processes reach it through.
#pragma once

#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "ps/shard.h"
#include "ps/shard_port.h"

namespace savior {

// Thread-safe.
class ShardThread {
 public:
  using Work = absl::AnyInvocable<void(Shard&)>;
  // Keys of hints that may wait; later ones are dropped. At 128 B a row this many fill 8 MiB: more
  // would push each other out of a small hot tier.
  static constexpr size_t kMaxHintedKeys = 65536;

  explicit ShardThread(std::unique_ptr<Shard> shard);
  // Stops.
  ~ShardThread();
  ShardThread(const ShardThread&) = delete;
  ShardThread& operator=(const ShardThread&) = delete;

  // Runs `work` on the shard's thread, in the order of posting. Does not wait. False if the thread
  // has been stopped: `work` will not run.
  bool Post(Work work);
  // Hints to the shard when there is no other work. May be dropped. False as above.
  bool PostHint(int64_t step, uint32_t table, std::vector<uint64_t> keys);
  // Forgets hints of steps >= `from_step`. False as above.
  bool CancelHints(int64_t from_step);
  // From the return on requests at `port` are served, in turn with posted work; or no longer, if it
  // is null. The port before is not touched any more. False as above.
  bool SetPort(ShardPort* port);
  // Ends the thread after the work posted so far; hints are dropped. Waits for that.
  void Stop();

 private:
  struct Hint {
    int64_t step = 0;
    uint32_t table = 0;
    std::vector<uint64_t> keys;
  };

  void Run();
  // One piece of work, or hint, if there is one. False: none.
  bool WorkOnce();
  bool HintOnce();
  bool IsDone();
  // Waits until something is posted, there is something to tend to, or may be at the port.
  void Sleep();
  // Ends Sleep. The caller holds mutex_.
  void Rouse();

  const int wake_fd_;  // an eventfd: poll() waits for it and for the port at once

  // Touched by thread_ only.
  const std::unique_ptr<Shard> shard_;
  ShardPort* port_ = nullptr;

  std::mutex mutex_;
  // Guarded by mutex_.
  bool sleeping_ = false;  // nobody has written to wake_fd_ since Sleep began
  std::deque<Work> work_;
  std::deque<Hint> hints_;
  size_t hinted_keys_ = 0;  // in hints_
  bool woken_ = false;      // there may be something to tend to
  bool stopping_ = false;

  std::mutex join_mutex_;  // two may Stop at once
  std::thread thread_;     // last: it sees all of the above made
};

}  // namespace savior
