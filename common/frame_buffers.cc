#include "common/frame_buffers.h"

#include <algorithm>
#include <bit>
#include <new>

namespace savior {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

FrameBuffers::~FrameBuffers() {
  for (const std::vector<Prefix*>& kept : kept_) {
    for (Prefix* const buffer : kept) ::operator delete(buffer, kAlignment);
  }
}

void* FrameBuffers::Take(size_t bytes) {
  const auto size_class = static_cast<size_t>(std::bit_width(std::max(bytes, kSmallest) - 1));
  {
    const std::lock_guard lock(mutex_);
    std::vector<Prefix*>& kept = kept_[size_class];
    if (!kept.empty()) {
      Prefix* const buffer = kept.back();
      kept.pop_back();
      kept_bytes_ -= size_t{1} << size_class;
      return buffer + 1;
    }
  }
  void* const memory = ::operator new(sizeof(Prefix) + (size_t{1} << size_class), kAlignment);
  return new (memory) Prefix{size_class} + 1;
}

void FrameBuffers::Return(void* buffer, void* self) {
  auto& buffers = *static_cast<FrameBuffers*>(self);
  Prefix* const prefix = static_cast<Prefix*>(buffer) - 1;
  const size_t size = size_t{1} << prefix->size_class;
  {
    const std::lock_guard lock(buffers.mutex_);
    if (buffers.kept_bytes_ + size <= kKeptBytes) {
      buffers.kept_[prefix->size_class].push_back(prefix);
      buffers.kept_bytes_ += size;
      return;
    }
  }
  ::operator delete(prefix, kAlignment);
}

}  // namespace savior
