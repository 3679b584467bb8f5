// Buffers of frames, kept for the next one.
//
// A fresh buffer of a megabyte costs 256 page faults, which is more than filling it; and the last
// buffer used is the one that the cache still has. So what comes back is kept, up to a bound, by
// size class: powers of two.
#pragma once

#include <array>
#include <cstddef>
#include <mutex>
#include <vector>

namespace savior {

// Thread-safe. Outlives its buffers.
class FrameBuffers {
 public:
  static constexpr size_t kSmallest = size_t{4} << 10;
  // Kept for later use, all classes together. What is in use is not bounded here.
  static constexpr size_t kKeptBytes = size_t{256} << 20;

  FrameBuffers() = default;
  ~FrameBuffers();
  FrameBuffers(const FrameBuffers&) = delete;
  FrameBuffers& operator=(const FrameBuffers&) = delete;

  // A buffer of at least `bytes`, at a multiple of 64.
  void* Take(size_t bytes);
  // Takes a buffer back: libzmq's zmq_free_fn, with the FrameBuffers as `self`.
  static void Return(void* buffer, void* self);
  // What this thread has written to buffers happens before they are returned, by whichever thread;
  // shows the thread sanitizer what libzmq guarantees.
  void HandOver() { const std::lock_guard lock(mutex_); }

 private:
  // Before every buffer: its class.
  struct alignas(64) Prefix {
    size_t size_class;
  };
  static constexpr size_t kClasses = 40;

  std::mutex mutex_;
  // Guarded by mutex_.
  std::array<std::vector<Prefix*>, kClasses> kept_;
  size_t kept_bytes_ = 0;
};

}  // namespace savior
