// Memory that grows in place: what lies in it never moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace savior {

// A range of address space, of which the first bytes() bytes are in use; new ones are zeros.
//
// Growing maps further pages, so it costs a page fault and never a copy. From a size on where it
// pays, pages are huge (a table of a gigabyte needs 250,000 page-table entries otherwise, and every
// random row is a TLB miss). Single-threaded. Out of address space or memory: std::bad_alloc.
class Arena {
 public:
  static constexpr size_t kHugePage = size_t{2} << 20;

  // Up to `max_bytes`; takes no memory yet.
  explicit Arena(size_t max_bytes);
  ~Arena();
  Arena(Arena&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        mapped_(std::exchange(other.mapped_, 0)),
        data_(std::exchange(other.data_, nullptr)),
        max_bytes_(std::exchange(other.max_bytes_, 0)),
        accessible_(std::exchange(other.accessible_, 0)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  Arena& operator=(Arena&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  size_t max_bytes() const { return max_bytes_; }

  // What an arena that must hold `bytes` takes: rounded up to its steps, at most 1/16 more, or a
  // page.
  static size_t Rounded(size_t bytes);

  // Sees to it that at least `bytes` are in use; <= max_bytes.
  void Grow(size_t bytes) {
    if (bytes > bytes_) Resize(Rounded(bytes));
  }
  // Grows by a huge page if less than one is left behind the first `used` bytes, and returns it, or
  // nothing: to be touched by somebody else before it is needed (Touch). Only where steps are huge.
  std::span<std::byte> GrowAhead(size_t used);
  // Gives back what lies behind the first `bytes`.
  void Shrink(size_t bytes) {
    if (Rounded(bytes) < bytes_) Resize(Rounded(bytes));
  }
  // Gives back the pages that lie wholly in [begin, end), which read as zeros again.
  void Discard(size_t begin, size_t end);

  // Has the system find memory for pages of an arena that nobody has used yet: the first touch of a
  // huge page takes .2 ms and, in a virtual machine, up to some ms. Any thread, at any time: it
  // changes no byte, and does nothing if the pages have been given back meanwhile.
  static void Touch(std::span<std::byte> pages);

 private:
  void Resize(size_t bytes);

  void* base_ = nullptr;  // of the mapping
  size_t mapped_ = 0;
  std::byte* data_ = nullptr;  // the first huge page's begin in it
  size_t max_bytes_ = 0;
  size_t accessible_ = 0;  // >= bytes_; the rest may not be touched
  size_t bytes_ = 0;
};

}  // namespace savior
