// A TCP socket that listens.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"

namespace savior {

// Thread-compatible; Wake is thread-safe.
class Listener {
 public:
  // `host`: a name or an address; `port` 0: any that is free. Errors name both and the system's
  // reason: kInvalidArgument (no such host), kFailedPrecondition (in use, not ours, ...).
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Listener>> Bind(const std::string& host,
                                                                      int port);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int port() const { return port_; }
  bool loopback() const { return loopback_; }  // nobody outside of this machine can reach it

  // The next connection, a non-blocking socket that the caller owns. Blocks until there is one, or
  // until Wake was called: then it returns those that wait already, and -1 when there are none.
  int Accept();
  void Wake();

 private:
  Listener(int fd, int wake_fd, int port, bool loopback)
      : fd_(fd), wake_fd_(wake_fd), port_(port), loopback_(loopback) {}

  const int fd_, wake_fd_;
  const int port_;
  const bool loopback_;
};

}  // namespace savior
