// The control channel of a run: every process tells the coordinator, in rank 0's process, how it
// is, and hears what becomes of the run.
//
// Both sides repeat their whole state, so a message that is lost costs nothing but time. JSON, one
// frame each:
//
//   to the coordinator    {"run": u64, "rank": n, "stop": bool, "finished": bool, "left": bool,
//                          "error": text, "code": n}       error: empty unless it has failed
//   back                  {"run": u64, "state": n, "text": text, "code": n, "left": bool}
//
// Nobody waits for ever: the coordinator counts who is silent for the lease as dead, and a process
// that hears nothing for so long counts the coordinator as dead.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "common/clock.h"
#include "common/status.h"
#include "common/transport.h"
#include "launcher/membership.h"

namespace savior {

// What the coordinator logs before why the run has failed.
inline constexpr const char* kRunHasFailed = "the run has failed: ";

// Answers everybody, on a thread of its own, until it is destroyed.
class Coordinator {
 public:
  // context outlives it. `run`: the incarnation. Errors: RouterSocket::Bind's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Coordinator>> Start(
      Context* context, const std::string& endpoint, const SocketSecurity& security, uint64_t run,
      Membership membership);
  // Waits, some seconds at most, until everybody has left.
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  const std::string& endpoint() const { return socket_->endpoint(); }

 private:
  Coordinator(std::unique_ptr<RouterSocket> socket, Context* context, uint64_t run,
              Membership membership);
  void Run();
  void ReceiveAll();
  void Hear(const std::string& bytes, std::string* reply);
  bool Over();

  const std::unique_ptr<RouterSocket> socket_;
  Context* const context_;
  const uint64_t run_;
  Membership membership_;  // the thread's
  std::mutex mutex_;
  bool stopping_ = false;  // guarded by mutex_
  Deadline stop_by_;       // guarded by mutex_, once stopping_
  std::thread thread_;     // last
};

struct ControlLinkOptions {
  std::string endpoint;  // the coordinator's
  SocketSecurity security = {};
  uint64_t run = 0;
  uint32_t rank = 0;
  std::chrono::milliseconds lease{30000};
};

// One process's end. Thread-safe.
class ControlLink {
 public:
  // `changed` is called, on the link's thread, whenever what becomes of the run changes; it may end
  // the process. context outlives the link. Errors: DealerSocket::Connect's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<ControlLink>> Start(
      Context* context, const ControlLinkOptions& options,
      std::function<void(const Verdict&)> changed);
  // Says that this process leaves, and waits, a few seconds at most, until that is known.
  ~ControlLink();
  ControlLink(const ControlLink&) = delete;
  ControlLink& operator=(const ControlLink&) = delete;

  void AskToStop();
  void ReportFinished();
  // Waits, a few seconds at most, until the coordinator knows; `changed` is called as for any
  // failure of the run.
  void ReportFailure(const std::string& text, int exit_code);
  // Waits until the run has finished or failed.
  Verdict WaitForEnd();

 private:
  struct State {
    bool stop = false, finished = false, left = false;
    std::string error = {};
    int exit_code = 1;
    bool operator==(const State&) const = default;
  };

  ControlLink(Context* context, const ControlLinkOptions& options,
              std::unique_ptr<DealerSocket> socket, std::function<void(const Verdict&)> changed);
  void Run();
  void Send(const State& state);
  void ReceiveAll();
  void Take(Verdict verdict, bool left);
  void Change(const std::function<void(State&)>& change);

  Context* const context_;
  const ControlLinkOptions options_;
  const std::unique_ptr<DealerSocket> socket_;  // the thread's
  const std::function<void(const Verdict&)> changed_;
  Deadline heard_;  // the thread's

  std::mutex mutex_;
  std::condition_variable news_;
  // Guarded by mutex_.
  State state_;
  bool dirty_ = true;  // state_ has not been sent
  Verdict verdict_;
  bool has_left_ = false;  // and the coordinator knows
  bool stopping_ = false;
  std::thread thread_;  // last
};

}  // namespace savior
