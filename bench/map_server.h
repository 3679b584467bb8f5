// What bench_pull_push compares with: the plainest parameter server that does the work, over the
// same transport.
//
//   pull := n:u64 key:u64[n]                          -> float[n, dim]
//   push := n:u64 key:u64[n] gradient:float[n, dim]   -> eight bytes
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/transport.h"

namespace savior {

// Rows in an unordered_map of vectors; pull copies, push adds. Single-threaded.
class MapServer {
 public:
  MapServer(uint32_t dim, uint64_t rows);

  [[nodiscard]] absl::Status Bind(Context* context, const std::string& endpoint,
                                  const SocketSecurity& security);
  const std::string& endpoint() const { return socket_->endpoint(); }
  // Serves until `control_fd` is readable.
  void ServeUntil(int control_fd, Context* context);

 private:
  Frame Answer(std::span<const std::byte> request, Context* context);

  const uint32_t dim_;
  std::unordered_map<uint64_t, std::vector<float>> rows_;
  std::unique_ptr<RouterSocket> socket_;
};

}  // namespace savior
