// Programs that this process starts: their output, their end, and that they do not outlive it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/status.h"

namespace savior {

// What a program gets otherwise than this process has it.
struct ChildOptions {
  int nice = 0;                         // > 0: lower priority than this process by so much
  int death_signal = SIGTERM;           // what it gets when the thread that started it ends
  std::vector<std::string> unset = {};  // environment variables that start so
  std::vector<std::pair<std::string, std::string>> set = {};  // name and value
};

// A running program in a session of its own, so that Ctrl-C in a terminal reaches this process
// alone and nothing below can ask the terminal for a password. Its input is empty, its output and
// errors come through pipes; no other file of this process is open there. When the thread that
// started it ends, even by SIGKILL, the system sends it a signal. Single-threaded.
class Child {
 public:
  // `argv`: the program, found by PATH, and its arguments. kFailedPrecondition: it is not there or
  // cannot be started.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Child>> Start(
      const std::vector<std::string>& argv, const ChildOptions& options = {});
  // Kills what still runs.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int out() const { return out_; }  // pipes to read from; they do not block
  int err() const { return err_; }

  // To the program alone: mpirun and srun pass signals on themselves.
  void Signal(int signal) const;
  // SIGKILL to the program and all that it started in its session's group (its ssh); after its end
  // to those that it has left behind.
  void Kill() const;
  // Its exit status, 128 + n if signal n ended it; nothing while it runs.
  std::optional<int> Ended();

 private:
  Child(pid_t pid, int out, int err) : pid_(pid), out_(out), err_(err) {}

  const pid_t pid_;
  const int out_, err_;
  std::optional<int> code_;
};

// Appends what `fd` has to `bytes`, without blocking. False: the stream has ended.
bool ReadAvailable(int fd, std::string& bytes);

struct Finished {
  std::optional<int> code = {};  // none: it could not be started, or was killed at the time-out
  std::string out = {}, err = {};
};

// Runs `commands` at once and waits for all of them, up to `timeout`; then those left are killed.
std::vector<Finished> RunAll(std::span<const std::vector<std::string>> commands,
                             std::chrono::milliseconds timeout);

}  // namespace savior
