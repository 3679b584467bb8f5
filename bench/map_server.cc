#include "bench/map_server.h"

#include <poll.h>

#include <cstring>
#include <utility>

#include "common/random.h"

namespace savior {

MapServer::MapServer(uint32_t dim, uint64_t rows) : dim_(dim) {
  rows_.reserve(rows);
  for (uint64_t rank = 1; rank <= rows; ++rank) rows_[Mix(rank)].assign(dim, 0.01f);
}

absl::Status MapServer::Bind(Context* context, const std::string& endpoint,
                             const SocketSecurity& security) {
  socket_.reset();
  SAVIOR_ASSIGN_OR_RETURN(socket_, RouterSocket::Bind(context, endpoint, security));
  return absl::OkStatus();
}

void MapServer::ServeUntil(int control_fd, Context* context) {
  while (true) {
    Frame peer;
    Frame request;
    while (socket_->Receive(&peer, &request)) {
      socket_->Send(std::move(peer), Answer(std::as_const(request).bytes(), context));
    }
    pollfd waits[] = {{.fd = control_fd, .events = POLLIN, .revents = 0},
                      {.fd = socket_->fd(), .events = POLLIN, .revents = 0}};
    ::poll(waits, 2, -1);
    if (waits[0].revents != 0) return;
  }
}

Frame MapServer::Answer(std::span<const std::byte> request, Context* context) {
  uint64_t n = 0;
  std::memcpy(&n, request.data(), sizeof(n));
  const auto* const keys = reinterpret_cast<const uint64_t*>(request.data()) + 1;
  const auto* const grads = reinterpret_cast<const float*>(keys + n);
  const bool push = request.size() > (n + 1) * sizeof(uint64_t);
  if (push) {
    for (size_t i = 0; i < n; ++i) {
      std::vector<float>& row = rows_[keys[i]];
      row.resize(dim_);
      for (uint32_t d = 0; d < dim_; ++d) row[d] += grads[i * dim_ + d];
    }
    return context->NewFrame(8);
  }
  Frame reply = context->NewFrame(n * dim_ * sizeof(float));
  auto* const out = reinterpret_cast<float*>(reply.bytes().data());
  for (size_t i = 0; i < n; ++i) {
    const auto found = rows_.find(keys[i]);
    if (found != rows_.end()) {
      std::memcpy(out + i * dim_, found->second.data(), dim_ * sizeof(float));
    }
  }
  return reply;
}

}  // namespace savior
