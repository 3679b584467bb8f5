// The one kind of number that must not follow from a seed.
#pragma once

#include <cstdint>
#include <random>

namespace savior {

// Names something that must not be taken for another of its kind, of this run or an earlier one: a
// client's sequence numbers, an incarnation of a run. Thread-safe.
inline uint64_t DrawUniqueNumber() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace savior
