#include "serving/connection.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace savior {
namespace {

constexpr size_t kChunk = 16 << 10;
constexpr size_t kMostUnsent = 64 << 10;

std::string TlsReason() {
  char text[256] = "no reason given";
  if (const unsigned long error = ::ERR_get_error())
    ::ERR_error_string_n(error, text, sizeof(text));
  ::ERR_clear_error();
  return text;
}

int MillisecondsLeft(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1'000'000));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TlsContext>> TlsContext::Load(const std::string& certificate,
                                                             const std::string& key) {
  ::ERR_clear_error();
  std::unique_ptr<TlsContext> tls(new TlsContext(::SSL_CTX_new(::TLS_server_method())));
  if (tls->get() == nullptr) return absl::InternalError("TLS: " + TlsReason());
  ::SSL_CTX_set_min_proto_version(tls->get(), TLS1_2_VERSION);
  // A write may go on from another address: our buffer grows in between.
  ::SSL_CTX_set_mode(tls->get(),
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (::SSL_CTX_use_certificate_chain_file(tls->get(), certificate.c_str()) != 1) {
    return absl::InvalidArgumentError(
        fmt::format("TLS certificate {}: {}", certificate, TlsReason()));
  }
  if (::SSL_CTX_use_PrivateKey_file(tls->get(), key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      ::SSL_CTX_check_private_key(tls->get()) != 1) {
    return absl::InvalidArgumentError(
        fmt::format("TLS key {} (of certificate {}): {}", key, certificate, TlsReason()));
  }
  return tls;
}

TlsContext::~TlsContext() { ::SSL_CTX_free(context_); }

Connection::Connection(int fd, const TlsContext* tls) : fd_(fd) {
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (tls == nullptr) return;
  ssl_ = ::SSL_new(tls->get());
  if (ssl_ == nullptr || ::SSL_set_fd(ssl_, fd_) != 1) failed_ = true;
}

Connection::~Connection() {
  ::SSL_free(ssl_);
  ::close(fd_);
}

bool Connection::Wait(short events) {
  // A client that writes head and body apart may wait for our word that the head arrived, which the
  // system would keep back for 40 ms.
  const int on = 1;
  if (events == POLLIN) ::setsockopt(fd_, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
  while (true) {
    pollfd wait{.fd = fd_, .events = events, .revents = 0};
    const int left = MillisecondsLeft(deadline_);
    const int ready = ::poll(&wait, 1, left);
    if (ready > 0) return true;
    if (ready == 0 && SteadyClock::now() >= deadline_) {
      too_late_ = true;
      return false;
    }
    if (ready < 0 && errno != EINTR) return false;
  }
}

bool Connection::WaitForTls(int result) {
  switch (::SSL_get_error(ssl_, result)) {
    case SSL_ERROR_WANT_READ:
      return Wait(POLLIN);
    case SSL_ERROR_WANT_WRITE:
      return Wait(POLLOUT);
    default:
      ::ERR_clear_error();
      failed_ = true;
      return false;
  }
}

bool Connection::Handshake() {
  while (ssl_ != nullptr && !failed_) {
    ::ERR_clear_error();
    const int result = ::SSL_accept(ssl_);
    if (result == 1) break;
    if (!WaitForTls(result)) return false;
  }
  return !failed_;
}

bool Connection::Readable(std::chrono::milliseconds wait) {
  if (in_begin_ < in_.size() || (ssl_ != nullptr && ::SSL_has_pending(ssl_) == 1)) return true;
  pollfd poll{.fd = fd_, .events = POLLIN, .revents = 0};
  return ::poll(&poll, 1, static_cast<int>(wait.count())) > 0;
}

int64_t Connection::Receive(char* bytes, size_t size) {
  // Also of bytes that come in time one by one: the deadline is the request's, not the read's.
  while (!failed_) {
    if (SteadyClock::now() >= deadline_) {
      too_late_ = true;
      return -1;
    }
    if (ssl_ != nullptr) {
      ::ERR_clear_error();
      const int got = ::SSL_read(ssl_, bytes, static_cast<int>(size));
      if (got > 0) return got;
      if (::SSL_get_error(ssl_, got) == SSL_ERROR_ZERO_RETURN) return 0;
      if (!WaitForTls(got)) return -1;
      continue;
    }
    const ssize_t got = ::recv(fd_, bytes, size, 0);
    if (got >= 0) return got;
    if (errno == EINTR) continue;
    if ((errno != EAGAIN && errno != EWOULDBLOCK) || !Wait(POLLIN)) return -1;
  }
  return -1;
}

int64_t Connection::Read(char* bytes, size_t size) {
  if (!Flush()) return -1;
  if (in_begin_ == in_.size()) {
    in_.resize(kChunk);
    const int64_t got = Receive(in_.data(), in_.size());
    in_.resize(static_cast<size_t>(std::max<int64_t>(got, 0)));
    in_begin_ = 0;
    if (got <= 0) return got;
  }
  if (budget_ <= 0) {
    over_budget_ = true;
    return -1;
  }
  const size_t taken = std::min({size, in_.size() - in_begin_, static_cast<size_t>(budget_)});
  std::memcpy(bytes, in_.data() + in_begin_, taken);
  in_begin_ += taken;
  budget_ -= static_cast<int64_t>(taken);
  return static_cast<int64_t>(taken);
}

int64_t Connection::Send(const char* bytes, size_t size) {
  while (!failed_) {
    if (SteadyClock::now() >= deadline_) {
      too_late_ = true;
      return -1;
    }
    if (ssl_ != nullptr) {
      ::ERR_clear_error();
      const int sent = ::SSL_write(ssl_, bytes, static_cast<int>(std::min(size, kMostUnsent)));
      if (sent > 0) return sent;
      if (!WaitForTls(sent)) return -1;
      continue;
    }
    const ssize_t sent = ::send(fd_, bytes, size, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno == EINTR) continue;
    if ((errno != EAGAIN && errno != EWOULDBLOCK) || !Wait(POLLOUT)) return -1;
  }
  return -1;
}

bool Connection::Write(const char* bytes, size_t size) {
  if (failed_) return false;
  out_.append(bytes, size);
  return out_.size() < kMostUnsent || Flush();
}

bool Connection::Flush() {
  size_t sent = 0;
  while (sent < out_.size()) {
    const int64_t more = Send(out_.data() + sent, out_.size() - sent);
    if (more <= 0) {
      failed_ = true;
      break;
    }
    sent += static_cast<size_t>(more);
  }
  out_.clear();
  return !failed_;
}

void Connection::CloseAfterAnswer() {
  if (!Flush()) return;
  if (ssl_ != nullptr) ::SSL_shutdown(ssl_);  // sends our end; the peer's is not waited for
  ::shutdown(fd_, SHUT_WR);
  char dropped[kChunk];
  ssize_t got = 1;
  while (got != 0 && SteadyClock::now() < deadline_) {
    got = ::recv(fd_, dropped, sizeof(dropped), 0);
    if (got < 0 && errno != EINTR && !((errno == EAGAIN || errno == EWOULDBLOCK) && Wait(POLLIN))) {
      return;
    }
  }
}

std::pair<std::string, int> Connection::peer() const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {"", 0};
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address);
    ::inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
    return {text, ntohs(in->sin_port)};
  }
  const auto* in = reinterpret_cast<const sockaddr_in6*>(&address);
  ::inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof(text));
  return {text, ntohs(in->sin6_port)};
}

}  // namespace savior
