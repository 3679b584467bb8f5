#include "common/transport.h"

#include <absl/strings/str_cat.h>
#include <arpa/inet.h>
#include <glog/logging.h>
#include <poll.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>
#include <utility>

#include "common/frame_buffers.h"
#include "common/message.h"
#include "common/transport_gatekeeper.h"

namespace savior {
namespace {

static_assert(sizeof(zmq_msg_t) == 64);

// Above the requests that a client may have unanswered (64 and their repetitions), with room for
// hints.
constexpr int kHighWaterMark = 512;
constexpr int64_t kCurveBytes = 1024;
constexpr int kHandshakeMs = 1000;  // idle strangers are thrown out after this
constexpr int kHeartbeatMs = 2000;
constexpr int kHeartbeatTimeoutMs = 10000;
constexpr int kReconnectMs = 50;
constexpr int kReconnectMaxMs = 2000;
constexpr int kRouterLingerMs = 1000;  // for replies on their way at the end

// libzmq is not compiled with the thread sanitizer, which so knows nothing of the order in which
// its memory changes hands. There, all bytes that we touch are in buffers of ours, whose lock it
// sees.
#if defined(__SANITIZE_THREAD__)
constexpr bool kOwnBuffersOnly = true;
#else
constexpr bool kOwnBuffersOnly = false;
#endif

// A copy of libzmq's memory, which the thread sanitizer does not look at.
void CopyUnwatched(const std::byte* from, size_t bytes, std::byte* to) {
#if defined(__SANITIZE_THREAD__) && defined(__x86_64__)
  asm volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(bytes) : : "memory");
#else
  std::memcpy(to, from, bytes);
#endif
}

zmq_msg_t* Message(std::byte* storage) { return reinterpret_cast<zmq_msg_t*>(storage); }

std::string ZmqError() { return zmq_strerror(zmq_errno()); }

void Set(void* socket, int option, int value) {
  CHECK_EQ(zmq_setsockopt(socket, option, &value, sizeof(value)), 0) << option << ZmqError();
}

bool SetText(void* socket, int option, const std::string& value) {
  return zmq_setsockopt(socket, option, value.c_str(), value.size()) == 0;
}

absl::Status CheckReach(const std::string& endpoint, const SocketSecurity& security) {
  if (security.keys.has_value() || IsOnThisMachine(endpoint)) return absl::OkStatus();
  if (!security.insecure) {
    return absl::InvalidArgumentError(
        absl::StrCat(endpoint, " can be reached from other machines: it needs CURVE keys"));
  }
  LOG(WARNING) << "INSECURE: " << endpoint
               << " has neither encryption nor authentication: whoever reaches it can read and "
                  "change the model";
  return absl::OkStatus();
}

void SetCommon(void* socket, const std::string& endpoint) {
  // Only then: with it "localhost" may mean [::1], where a server of 127.0.0.1 is not.
  if (endpoint.find('[') != std::string::npos) Set(socket, ZMQ_IPV6, 1);
  Set(socket, ZMQ_SNDHWM, kHighWaterMark);
  Set(socket, ZMQ_RCVHWM, kHighWaterMark);
  // A length in a header reserves memory before a byte of it has come. What CURVE adds fits, too.
  const int64_t largest = kMaxFrameBytes + kCurveBytes;
  CHECK_EQ(zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof(largest)), 0) << ZmqError();
  Set(socket, ZMQ_HANDSHAKE_IVL, kHandshakeMs);
  Set(socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
  Set(socket, ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs);
  Set(socket, ZMQ_TCP_KEEPALIVE, 1);
  Set(socket, ZMQ_TCP_KEEPALIVE_IDLE, 30);
  Set(socket, ZMQ_TCP_KEEPALIVE_INTVL, 10);
  Set(socket, ZMQ_TCP_KEEPALIVE_CNT, 3);
}

absl::Status SetKeys(void* socket, const CurveKeys& keys) {
  if (SetText(socket, ZMQ_CURVE_PUBLICKEY, keys.public_key) &&
      SetText(socket, ZMQ_CURVE_SECRETKEY, keys.secret_key)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("not a CURVE key pair, or libzmq was built without CURVE");
}

absl::Status SystemRefused(const std::string& what, const std::string& endpoint) {
  const int error = zmq_errno();
  const std::string text = absl::StrCat(what, " ", endpoint, ": ", zmq_strerror(error));
  if (error == EADDRINUSE || error == EACCES || error == EADDRNOTAVAIL) {
    return absl::FailedPreconditionError(text);
  }
  return absl::InvalidArgumentError(text);
}

// The descriptor that libzmq signals a socket's events through.
int DescriptorOf(void* socket) {
  int fd = -1;
  size_t size = sizeof(fd);
  CHECK_EQ(zmq_getsockopt(socket, ZMQ_FD, &fd, &size), 0) << ZmqError();
  return fd;
}

// False: nothing there.
bool ReceivePart(void* socket, std::byte* storage) {
  // An interrupted call is repeated; any other error is that there is nothing (EAGAIN) or that the
  // context ends.
  while (zmq_msg_recv(Message(storage), socket, ZMQ_DONTWAIT) < 0) {
    if (zmq_errno() != EINTR) return false;
  }
  return true;
}

bool SendPart(void* socket, std::byte* storage, int flags) {
  while (zmq_msg_send(Message(storage), socket, ZMQ_DONTWAIT | flags) < 0) {
    if (zmq_errno() != EINTR) return false;
  }
  return true;
}

}  // namespace

Frame::Frame() { zmq_msg_init(Message(message_)); }

Frame::Frame(Frame&& other) noexcept : Frame() { *this = std::move(other); }

Frame& Frame::operator=(Frame&& other) noexcept {
  if (this != &other) zmq_msg_move(Message(message_), Message(other.message_));
  return *this;
}

Frame::~Frame() { zmq_msg_close(Message(message_)); }

std::span<std::byte> Frame::bytes() {
  return {static_cast<std::byte*>(zmq_msg_data(Message(message_))),
          zmq_msg_size(Message(message_))};
}

std::span<const std::byte> Frame::bytes() const { return const_cast<Frame*>(this)->bytes(); }

Frame Frame::Share() {
  Frame other;
  zmq_msg_copy(Message(other.message_), Message(message_));
  return other;
}

Context::Context()
    : context_(zmq_ctx_new()),
      buffers_(std::make_unique<FrameBuffers>()),
      gatekeeper_(std::make_unique<Gatekeeper>(context_)) {}

Context::~Context() {
  zmq_ctx_shutdown(context_);  // ends the gatekeeper's waiting
  gatekeeper_->Join();
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

Frame Context::NewFrame(size_t bytes) {
  Frame frame;
  if (bytes < FrameBuffers::kSmallest && !kOwnBuffersOnly) {
    CHECK_EQ(zmq_msg_init_size(Message(frame.message_), bytes), 0) << ZmqError();
    // libzmq keeps tiny messages in the zmq_msg_t itself, which moves with the frame: still at a
    // multiple of 8.
    return frame;
  }
  CHECK_EQ(zmq_msg_init_data(Message(frame.message_), buffers_->Take(bytes), bytes,
                             &FrameBuffers::Return, buffers_.get()),
           0)
      << ZmqError();
  return frame;
}

void Context::Align(Frame* frame) {
  const std::span<const std::byte> bytes = std::as_const(*frame).bytes();
  if (reinterpret_cast<uintptr_t>(bytes.data()) % 8 == 0 && !kOwnBuffersOnly) return;
  Frame copy = NewFrame(bytes.size());
  CopyUnwatched(bytes.data(), bytes.size(), copy.bytes().data());
  *frame = std::move(copy);
}

absl::Status Context::AllowClients(std::span<const std::string> public_keys) {
  return gatekeeper_->Allow(public_keys);
}

absl::StatusOr<std::unique_ptr<RouterSocket>> RouterSocket::Bind(Context* context,
                                                                 const std::string& endpoint,
                                                                 const SocketSecurity& security) {
  SAVIOR_RETURN_IF_ERROR(CheckReach(endpoint, security));
  void* const socket = zmq_socket(context->context_, ZMQ_ROUTER);
  if (socket == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("a socket for ", endpoint, ": ", ZmqError()));
  }
  std::unique_ptr<RouterSocket> router(new RouterSocket(context, socket, endpoint));
  SetCommon(socket, endpoint);
  Set(socket, ZMQ_LINGER, kRouterLingerMs);
  Set(socket, ZMQ_ROUTER_MANDATORY, 1);  // a Send to nobody says so
  if (security.keys.has_value()) {
    Set(socket, ZMQ_CURVE_SERVER, 1);
    SAVIOR_RETURN_IF_ERROR(SetKeys(socket, *security.keys));
    // Without a gatekeeper libzmq would let everybody in.
    SAVIOR_RETURN_IF_ERROR(context->gatekeeper_->Start());
  }
  if (zmq_bind(socket, endpoint.c_str()) != 0) return SystemRefused("listening at", endpoint);
  char bound[512];
  size_t size = sizeof(bound);
  CHECK_EQ(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &size), 0) << ZmqError();
  router->endpoint_ = bound;
  return router;
}

RouterSocket::RouterSocket(Context* context, void* socket, std::string endpoint)
    : context_(context), socket_(socket), endpoint_(std::move(endpoint)) {}

RouterSocket::~RouterSocket() { zmq_close(socket_); }

int RouterSocket::fd() const { return DescriptorOf(socket_); }

bool RouterSocket::Receive(Frame* peer, Frame* message) {
  while (ReceivePart(socket_, peer->message_)) {
    // Parts of a message come together: the next one is there.
    if (zmq_msg_more(Message(peer->message_)) == 0) continue;
    if (!ReceivePart(socket_, message->message_)) return false;
    if (zmq_msg_more(Message(message->message_)) == 0) {
      context_->Align(message);
      return true;
    }
    ++malformed_;
    LOG_EVERY_N(WARNING, 1000) << endpoint_ << ": dropped a message of several parts";
    Frame rest;
    while (ReceivePart(socket_, rest.message_) && zmq_msg_more(Message(rest.message_)) != 0) {
    }
  }
  return false;
}

bool RouterSocket::Send(Frame peer, Frame message) {
  if (kOwnBuffersOnly) context_->buffers_->HandOver();
  if (!SendPart(socket_, peer.message_, ZMQ_SNDMORE)) return false;
  return SendPart(socket_, message.message_, 0);
}

absl::StatusOr<std::unique_ptr<DealerSocket>> DealerSocket::Connect(
    Context* context, const std::string& endpoint, const SocketSecurity& security) {
  SAVIOR_RETURN_IF_ERROR(CheckReach(endpoint, security));
  void* const socket = zmq_socket(context->context_, ZMQ_DEALER);
  if (socket == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("a socket for ", endpoint, ": ", ZmqError()));
  }
  std::unique_ptr<DealerSocket> dealer(new DealerSocket(context, socket, endpoint));
  SetCommon(socket, endpoint);
  Set(socket, ZMQ_LINGER, 0);
  // Without a connection a Send is refused, instead of piling up what is repeated anyway.
  Set(socket, ZMQ_IMMEDIATE, 1);
  Set(socket, ZMQ_RECONNECT_IVL, kReconnectMs);
  Set(socket, ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMs);
  if (security.keys.has_value()) {
    SAVIOR_RETURN_IF_ERROR(SetKeys(socket, *security.keys));
    if (!SetText(socket, ZMQ_CURVE_SERVERKEY, security.server_key)) {
      return absl::InvalidArgumentError(
          absl::StrCat("connecting to ", endpoint, ": the server's key is not a CURVE key"));
    }
  }
  if (zmq_connect(socket, endpoint.c_str()) != 0) return SystemRefused("connecting to", endpoint);
  return dealer;
}

DealerSocket::DealerSocket(Context* context, void* socket, std::string endpoint)
    : context_(context), socket_(socket), endpoint_(std::move(endpoint)) {}

DealerSocket::~DealerSocket() { zmq_close(socket_); }

int DealerSocket::fd() const { return DescriptorOf(socket_); }

bool DealerSocket::Send(Frame message) {
  if (kOwnBuffersOnly) context_->buffers_->HandOver();
  return SendPart(socket_, message.message_, 0);
}

bool DealerSocket::Receive(Frame* message) {
  while (ReceivePart(socket_, message->message_)) {
    if (zmq_msg_more(Message(message->message_)) == 0) {
      context_->Align(message);
      return true;
    }
    Frame rest;
    while (ReceivePart(socket_, rest.message_) && zmq_msg_more(Message(rest.message_)) != 0) {
    }
  }
  return false;
}

bool IsOnThisMachine(const std::string& endpoint) {
  const std::string_view text = endpoint;
  if (text.starts_with("ipc://") || text.starts_with("inproc://")) return true;
  constexpr std::string_view kTcp = "tcp://";
  const size_t colon = text.rfind(':');
  if (!text.starts_with(kTcp) || colon < kTcp.size()) return false;
  const std::string host(text.substr(kTcp.size(), colon - kTcp.size()));
  if (host == "localhost" || host == "[::1]") return true;
  in_addr address{};
  return inet_pton(AF_INET, host.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
}

void WaitReadable(std::span<const int> fds, Deadline deadline) {
  std::vector<pollfd> polled;
  polled.reserve(fds.size());
  for (const int fd : fds) polled.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now());
  const auto ms = std::clamp<int64_t>(left.count(), 0, 1000 * 60 * 60);
  ::poll(polled.data(), polled.size(), static_cast<int>(ms));
}

}  // namespace savior
