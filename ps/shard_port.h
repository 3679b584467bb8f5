// Where a shard's requests from other processes come in.
#pragma once

#include "ps/shard.h"

namespace savior {

// Used by the shard's thread only.
class ShardPort {
 public:
  virtual ~ShardPort() = default;

  // Readable when there may be a request. Edge-triggered: Serve until it returns false before
  // waiting for it.
  virtual int fd() const = 0;

  // Serves at most one request, and does not wait for one. False: none was there.
  virtual bool Serve(Shard& shard) = 0;
};

}  // namespace savior
