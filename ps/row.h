// A row: key, counters, weights, optimizer state. One value wherever it is: in a slab, in the cold
// store, in a commit.
//
// In RAM (native byte order) a row has two parts, so that reading its weights touches nothing else:
//
//   head := updates:u32 last_step:u32 scalar:f32?    scalar: the state, if it is one float
//   body := weights[dim]:f32 state[state]:f32        state: if it is more than one float
//
// The key is in the hot tier's index.
//
// In the cold store (little-endian; the key is the store's key):
//
//   stored := version:u8=1 dtype:u8 dim:u16 state:u16 zero:u16 updates:u32 last_step:u32
//             weights[dim]:f32|f16|bf16 state[state]:f32
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

struct RowHead {
  uint32_t updates = 0;    // pushes or puts so far; a row that exists has at least one
  uint32_t last_step = 0;  // of the last push; <= kMaxPushStep (common/store_checks.h)
};
static_assert(sizeof(RowHead) == 8);

// The parts of a row in RAM. Points into memory of somebody else.
struct RowRef {
  RowHead& head;
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
  // Bytes of a row in RAM, and of its parts: multiples of 4.
  size_t bytes() const { return head_bytes_ + body_bytes_; }
  size_t head_bytes() const { return head_bytes_; }
  size_t body_bytes() const { return body_bytes_; }
  // Bytes of a row in the cold store.
  size_t stored_bytes() const;

  // `head`: head_bytes(), `body`: body_bytes(), both 4-byte aligned.
  RowRef At(std::byte* head, std::byte* body) const {
    auto* const weights = reinterpret_cast<float*>(body);
    auto* const scalar = reinterpret_cast<float*>(head + sizeof(RowHead));
    return {*reinterpret_cast<RowHead*>(head), weights,
            state_floats_ == 1 ? scalar : weights + dim_};
  }

  // Replaces `*stored` by the stored form of `row`.
  void Encode(const RowRef& row, std::string* stored) const;
  // The reverse. kDataLoss if `stored` is not a row of this layout; `row` is then unchanged.
  [[nodiscard]] absl::Status Decode(std::string_view stored, const RowRef& row) const;

 private:
  const uint32_t dim_;
  const uint32_t state_floats_;
  const StoreDtype dtype_;
  const size_t head_bytes_;
  const size_t body_bytes_;
};

}  // namespace savior
