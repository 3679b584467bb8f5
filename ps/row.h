// A row: key, counters, weights, optimizer state. One value wherever it is: in a slab, in the cold
// store, in a commit.
//
// In RAM (native byte order; 16-byte aligned, padded to a multiple of 16 bytes):
//
//   row    := header weights state padding
//   header := key:u64 updates:u32 last_step:u32
//
// In the cold store (little-endian; the key is the store's key):
//
//   stored := version:u8=1 dtype:u8 dim:u16 state:u16 zero:u16 updates:u32 last_step:u32
//             weights[dim]:f32|f16 state[state]:f32
//
// dim and state are repeated in every row so that a row of another layout never decodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/status.h"
#include "common/store.h"

namespace savior {

struct RowHeader {
  uint64_t key = 0;
  uint32_t updates = 0;    // pushes or puts so far; a row that exists has at least one
  uint32_t last_step = 0;  // of the last push
};
static_assert(sizeof(RowHeader) == 16);

inline constexpr int64_t kMaxStep = 0xffffffff;  // last_step is 32 bits

// The parts of a row in RAM. Points into memory of somebody else.
struct RowRef {
  RowHeader& header;
  float* weights;  // [dim]
  float* state;    // [state_floats]
};

// Where a table's rows have what. Immutable, thread-safe.
class RowLayout {
 public:
  explicit RowLayout(const TableSpec& spec);

  uint32_t dim() const { return dim_; }
  uint32_t state_floats() const { return state_floats_; }
  StoreDtype dtype() const { return dtype_; }
  // Bytes of a row in RAM.
  size_t bytes() const { return bytes_; }
  // Bytes of a row in the cold store.
  size_t stored_bytes() const;

  // `row`: bytes() bytes, 16-byte aligned.
  RowRef At(std::byte* row) const {
    auto* const weights = reinterpret_cast<float*>(row + sizeof(RowHeader));
    return {*reinterpret_cast<RowHeader*>(row), weights, weights + dim_};
  }

  // Replaces `*stored` by the stored form of `row`.
  void Encode(const RowRef& row, std::string* stored) const;
  // The reverse, into all of `row` but its key. kDataLoss if `stored` is not a row of this layout;
  // `row` is then unchanged.
  [[nodiscard]] absl::Status Decode(std::string_view stored, const RowRef& row) const;

 private:
  const uint32_t dim_;
  const uint32_t state_floats_;
  const StoreDtype dtype_;
  const size_t bytes_;
};

}  // namespace savior
