// Who may connect: libzmq asks for every CURVE connection (ZAP, rfc.zeromq.org/spec/27).
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>

#include "common/status.h"

namespace savior {

// A thread that answers libzmq's questions. Everything but CURVE with a key of the list is refused.
// Thread-safe.
class Gatekeeper {
 public:
  // context: a libzmq context, which must be shut down before Join.
  explicit Gatekeeper(void* context) : context_(context) {}
  ~Gatekeeper() { Join(); }
  Gatekeeper(const Gatekeeper&) = delete;
  Gatekeeper& operator=(const Gatekeeper&) = delete;

  // Starts the thread, if it has not been. Must come before a CURVE socket is bound.
  [[nodiscard]] absl::Status Start();
  // Replaces the list, which starts empty. Keys in Z85; kInvalidArgument names what is none, and
  // the list stays.
  [[nodiscard]] absl::Status Allow(std::span<const std::string> public_keys);

  // Waits for the thread's end.
  void Join();

 private:
  using Key = std::array<uint8_t, 32>;

  void Run(void* socket);
  // Reads one question; false when the context has ended.
  bool Answer(void* socket);
  bool IsAllowed(const std::string& mechanism, const std::string& credentials);

  void* const context_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::set<Key> allowed_;
  std::thread thread_;
};

}  // namespace savior
