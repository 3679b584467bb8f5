#include "common/transport_gatekeeper.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>
#include <zmq.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace savior {
namespace {

constexpr size_t kZ85KeyChars = 40;

// All parts of the next message. False when the context has ended.
bool ReceiveParts(void* socket, std::vector<std::string>* parts) {
  parts->clear();
  bool more = true;
  while (more) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    while (zmq_msg_recv(&part, socket, 0) < 0) {
      if (zmq_errno() == EINTR) continue;
      zmq_msg_close(&part);
      return false;
    }
    parts->emplace_back(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    more = zmq_msg_more(&part) != 0;
    zmq_msg_close(&part);
  }
  return true;
}

void SendParts(void* socket, const std::vector<std::string>& parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const int flags = i + 1 < parts.size() ? ZMQ_SNDMORE : 0;
    while (zmq_send(socket, parts[i].data(), parts[i].size(), flags) < 0 && zmq_errno() == EINTR) {
    }
  }
}

}  // namespace

absl::Status Gatekeeper::Start() {
  const std::lock_guard lock(mutex_);
  if (thread_.joinable()) return absl::OkStatus();
  void* const socket = zmq_socket(context_, ZMQ_REP);
  if (socket == nullptr) return absl::ResourceExhaustedError("a socket for the gatekeeper");
  if (zmq_bind(socket, "inproc://zeromq.zap.01") != 0) {
    zmq_close(socket);
    return absl::FailedPreconditionError("this libzmq context has a ZAP handler already");
  }
  thread_ = std::thread([this, socket] { Run(socket); });
  return absl::OkStatus();
}

absl::Status Gatekeeper::Allow(std::span<const std::string> public_keys) {
  std::set<Key> allowed;
  for (const std::string& text : public_keys) {
    Key key{};
    if (text.size() != kZ85KeyChars || zmq_z85_decode(key.data(), text.c_str()) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a CURVE public key"));
    }
    allowed.insert(key);
  }
  const std::lock_guard lock(mutex_);
  allowed_ = std::move(allowed);
  return absl::OkStatus();
}

void Gatekeeper::Join() {
  if (thread_.joinable()) thread_.join();
}

void Gatekeeper::Run(void* socket) {
  while (Answer(socket)) {
  }
  const int linger = 0;
  zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
  zmq_close(socket);
}

bool Gatekeeper::Answer(void* socket) {
  // version, request id, domain, address, identity, mechanism, credentials.
  std::vector<std::string> parts;
  if (!ReceiveParts(socket, &parts)) return false;
  const bool allowed = parts.size() == 7 && parts[0] == "1.0" && IsAllowed(parts[5], parts[6]);
  LOG_IF_EVERY_N(WARNING, !allowed, 100)
      << "refused a connection from " << (parts.size() > 3 ? parts[3] : "?")
      << ": its key is not on the allow-list";
  SendParts(socket, {"1.0", parts.size() > 1 ? parts[1] : "", allowed ? "200" : "400",
                     allowed ? "OK" : "not on the allow-list", "", ""});
  return true;
}

bool Gatekeeper::IsAllowed(const std::string& mechanism, const std::string& credentials) {
  Key key{};
  if (mechanism != "CURVE" || credentials.size() != key.size()) return false;
  std::memcpy(key.data(), credentials.data(), key.size());
  const std::lock_guard lock(mutex_);
  return allowed_.contains(key);
}

}  // namespace savior
