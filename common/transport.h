// Frames between processes: ZeroMQ behind a small interface, so that nothing else includes it.
//
// A server binds a RouterSocket, a client connects a DealerSocket; both are polled through fd().
// Plain sockets are for ipc:// and loopback tcp only; anything else needs CURVE keys, and the
// server an allow-list of client keys, without which nobody gets in. libzmq resends nothing: a
// frame may be lost with its connection, and repeating is the client's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace savior {

class FrameBuffers;
class Gatekeeper;

// The bytes of one message, reference-counted. Movable; must be gone before its Context is.
// Single-threaded, but the references of one frame's bytes may be dropped on different threads.
class Frame {
 public:
  Frame();  // empty
  Frame(Frame&& other) noexcept;
  Frame& operator=(Frame&& other) noexcept;
  ~Frame();

  // At a multiple of 8, valid until the frame moves or ends. Not to be written to once sent or
  // shared.
  std::span<std::byte> bytes();
  std::span<const std::byte> bytes() const;
  // Another reference to the same bytes.
  Frame Share();

 private:
  friend class Context;
  friend class RouterSocket;
  friend class DealerSocket;
  alignas(8) std::byte message_[64];  // a zmq_msg_t
};

// A CURVE key pair, in Z85: 40 characters each.
struct CurveKeys {
  std::string public_key;
  std::string secret_key;

  static CurveKeys Make();
  // Writes a new file that only its owner can read (0400). kFailedPrecondition: it exists.
  [[nodiscard]] absl::Status Save(const std::filesystem::path& path) const;
  // kFailedPrecondition if others can read the file; kDataLoss if it holds no key pair.
  [[nodiscard]] static absl::StatusOr<CurveKeys> Load(const std::filesystem::path& path);
};

// How a socket is protected. Without keys it is plain.
struct SocketSecurity {
  std::optional<CurveKeys> keys = std::nullopt;
  std::string server_key = {};  // clients with keys: the server's public key
  bool insecure = false;        // plain beyond this machine: for test beds, logged loudly
};

// What a process shares: libzmq's thread, frame buffers, who may connect. One per process, made
// after any fork, destroyed after its sockets and frames. Thread-safe.
class Context {
 public:
  Context();
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // A frame of `bytes` bytes, unset. Buffers of frames that are gone are used again, as fresh pages
  // would cost more than the copy into them.
  Frame NewFrame(size_t bytes);

  // Who may connect to CURVE sockets of this context: replaces the list. Without a call nobody may.
  // kInvalidArgument names what is not a public key.
  [[nodiscard]] absl::Status AllowClients(std::span<const std::string> public_keys);

 private:
  friend class RouterSocket;
  friend class DealerSocket;

  // libzmq lays messages that share a read anywhere: such a frame is copied, the others are at a
  // multiple of 8 already.
  void Align(Frame* frame);

  void* const context_;
  const std::unique_ptr<FrameBuffers> buffers_;
  const std::unique_ptr<Gatekeeper> gatekeeper_;
};

// Single-threaded, though it may be handed from one thread to another.
class RouterSocket {
 public:
  // endpoint: tcp://address:port or ipc://path; port 0 takes a free one. kInvalidArgument: plain
  // beyond this machine, or a bad key or endpoint. kFailedPrecondition: the address is in use.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RouterSocket>> Bind(
      Context* context, const std::string& endpoint, const SocketSecurity& security);
  ~RouterSocket();
  RouterSocket(const RouterSocket&) = delete;
  RouterSocket& operator=(const RouterSocket&) = delete;

  // What to connect to, with the port it has.
  const std::string& endpoint() const { return endpoint_; }
  // Readable when there may be something to receive. Edge-triggered: receive until there is nothing
  // before waiting for it, and again after a Send.
  int fd() const;

  // Takes the next message and whom it came from. False: there is none now.
  bool Receive(Frame* peer, Frame* message);
  // False: the peer has gone or does not read its replies; the message is dropped.
  bool Send(Frame peer, Frame message);

  // Messages of more than one part, which are not ours and were dropped.
  uint64_t malformed() const { return malformed_; }

 private:
  RouterSocket(Context* context, void* socket, std::string endpoint);

  Context* const context_;
  void* const socket_;
  std::string endpoint_;
  uint64_t malformed_ = 0;
};

// Single-threaded, though it may be handed from one thread to another.
class DealerSocket {
 public:
  // Connects in the background, and again whenever the connection is lost. Errors as Bind's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<DealerSocket>> Connect(
      Context* context, const std::string& endpoint, const SocketSecurity& security);
  ~DealerSocket();
  DealerSocket(const DealerSocket&) = delete;
  DealerSocket& operator=(const DealerSocket&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  // As RouterSocket's; also readable when a Send that was refused may work.
  int fd() const;

  // False: there is no connection now, or the peer does not read; nothing was sent.
  bool Send(Frame message);
  // False: there is no message now.
  bool Receive(Frame* message);

 private:
  DealerSocket(Context* context, void* socket, std::string endpoint);

  Context* const context_;
  void* const socket_;
  const std::string endpoint_;
};

// Whether an endpoint cannot be reached from another machine: ipc, or tcp on 127.0.0.0/8, [::1] or
// localhost.
bool IsOnThisMachine(const std::string& endpoint);

// Waits until one of `fds` is readable, or until `deadline`.
void WaitReadable(std::span<const int> fds, Deadline deadline);

}  // namespace savior
