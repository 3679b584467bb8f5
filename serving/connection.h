// One accepted connection as a stream of bytes, TLS or not, that cannot be held open by trickling:
// every read and write has the deadline and the number of bytes that its owner set.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "common/clock.h"
#include "common/status.h"

struct ssl_ctx_st;
struct ssl_st;

namespace savior {

// A server's certificate and key. Immutable, thread-safe.
class TlsContext {
 public:
  // PEM files; the certificate's may hold its chain. TLS 1.2 and up. kInvalidArgument names the
  // file and OpenSSL's reason.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<TlsContext>> Load(
      const std::string& certificate, const std::string& key);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ssl_ctx_st* get() const { return context_; }

 private:
  explicit TlsContext(ssl_ctx_st* context) : context_(context) {}
  ssl_ctx_st* const context_;
};

// Single-threaded. SIGPIPE must be ignored by the process.
class Connection {
 public:
  // Owns `fd`, a non-blocking socket. `tls`: null without TLS; outlives the connection.
  Connection(int fd, const TlsContext* tls);
  ~Connection();  // closes
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // For all that follows.
  void SetDeadline(Deadline deadline) { deadline_ = deadline; }
  // How many more bytes may be read.
  void SetBudget(int64_t bytes) { budget_ = bytes; }

  // The TLS handshake; nothing without TLS. False: failed or too late.
  bool Handshake();

  // Whether bytes (or the end) can be read at once; waits for them up to `wait`.
  bool Readable(std::chrono::milliseconds wait);
  // Up to `size` bytes, at least one; 0 at the end, -1 after a failure, the deadline or the
  // budget's end. What was written is sent first.
  int64_t Read(char* bytes, size_t size);
  // Kept until Flush, Read or 64 KiB. False: failed or too late.
  bool Write(const char* bytes, size_t size);
  bool Flush();

  // The end of the connection when bytes of the peer may be unread: it hears our answer to the end,
  // since a close at once would reset the connection and might take the answer with it. Reads and
  // drops what comes until the peer closes, up to the deadline.
  void CloseAfterAnswer();

  bool too_late() const { return too_late_; }
  bool over_budget() const { return over_budget_; }
  int fd() const { return fd_; }
  std::pair<std::string, int> peer() const;  // address, port

 private:
  // Waits for poll()'s `events`; false: failed or too late.
  bool Wait(short events);
  // After an incomplete call of OpenSSL with `result`: waits for what it needs; false: it failed.
  bool WaitForTls(int result);
  int64_t Receive(char* bytes, size_t size);
  int64_t Send(const char* bytes, size_t size);

  const int fd_;
  ssl_st* ssl_ = nullptr;
  Deadline deadline_ = Deadline::max();
  int64_t budget_ = 0;
  bool too_late_ = false, over_budget_ = false, failed_ = false;
  std::string in_;  // received and not read, from in_begin_ on
  size_t in_begin_ = 0;
  std::string out_;
};

}  // namespace savior
