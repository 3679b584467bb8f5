#include "ps/arena.h"

#include <glog/logging.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <new>

namespace savior {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHugeFrom = 16 * Arena::kHugePage;  // where Rounded's steps reach a huge page

size_t RoundUp(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

std::byte* AlignUp(void* address, size_t step) {
  return reinterpret_cast<std::byte*>(RoundUp(reinterpret_cast<uintptr_t>(address), step));
}

}  // namespace

Arena::Arena(size_t max_bytes) : max_bytes_(RoundUp(max_bytes, kHugePage)) {
  mapped_ = max_bytes_ + kHugePage;
  // Without access nothing is charged, even where the system does not overcommit.
  base_ = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base_ == MAP_FAILED) throw std::bad_alloc();
  data_ = AlignUp(base_, kHugePage);
}

Arena::~Arena() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(mapped_, other.mapped_);
  std::swap(data_, other.data_);
  std::swap(max_bytes_, other.max_bytes_);
  std::swap(accessible_, other.accessible_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

size_t Arena::Rounded(size_t bytes) {
  const size_t step = std::clamp(std::bit_floor(std::max<size_t>(bytes, 1)) / 16, kPage, kHugePage);
  return RoundUp(bytes, step);
}

void Arena::Resize(size_t bytes) {
  CHECK_LE(bytes, max_bytes_) << "beyond what was reserved";
  if (bytes > accessible_) {
    // In large steps: a change of a mapping waits for whoever is touching pages of it.
    const size_t end = std::min(RoundUp(bytes, bytes < kHugeFrom ? kPage : kHugeFrom), max_bytes_);
    if (mprotect(data_ + accessible_, end - accessible_, PROT_READ | PROT_WRITE) != 0) {
      throw std::bad_alloc();
    }
    accessible_ = end;
    // From here on steps are whole huge pages; a small table must not take 2 MiB. What lies before
    // is collapsed by the kernel at its leisure. A kernel without huge pages refuses, and nothing
    // but speed is lost.
    if (bytes >= kHugeFrom) madvise(data_, accessible_, MADV_HUGEPAGE);
  }
  if (bytes < bytes_) madvise(data_ + bytes, bytes_ - bytes, MADV_DONTNEED);
  bytes_ = bytes;
}

std::span<std::byte> Arena::GrowAhead(size_t used) {
  const size_t end = bytes_;
  if (end < kHugeFrom || end - used >= kHugePage || end + kHugePage > max_bytes_) return {};
  Resize(end + kHugePage);
  return {data_ + end, kHugePage};
}

void Arena::Touch(std::span<std::byte> pages) {
#ifdef MADV_POPULATE_WRITE  // Linux 5.14; else the first touch is the user's
  madvise(pages.data(), pages.size(), MADV_POPULATE_WRITE);
#endif
}

void Arena::Discard(size_t begin, size_t end) {
  const size_t first = RoundUp(begin, kPage);
  const size_t last = std::min(end, bytes_) / kPage * kPage;
  if (first < last) madvise(data_ + first, last - first, MADV_DONTNEED);
}

}  // namespace savior
