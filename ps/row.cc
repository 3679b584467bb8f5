#include "ps/row.h"

#include <absl/strings/str_cat.h>

#include <bit>
#include <cstring>

#include "common/half.h"
#include "ps/optimizer.h"

namespace savior {
namespace {

static_assert(std::endian::native == std::endian::little, "stored rows are little-endian");

constexpr uint8_t kVersion = 1;

struct StoredHeader {
  uint8_t version = kVersion;
  uint8_t dtype = 0;
  uint16_t dim = 0;
  uint16_t state = 0;
  uint16_t zero = 0;
  uint32_t updates = 0;
  uint32_t last_step = 0;
};
static_assert(sizeof(StoredHeader) == 16, "no padding: the struct is the format");
static_assert(2 * 512 <= UINT16_MAX, "Adam's state of the widest row fits `state`");

constexpr size_t WeightBytes(StoreDtype dtype) {
  return dtype == StoreDtype::kFloat32 ? sizeof(float) : sizeof(uint16_t);
}

// weights [dim], which the dtype can represent, to `out` and back.
template <uint16_t (*kNarrow)(float)>
void WriteNarrow(const float* weights, uint32_t dim, char* out) {
  for (uint32_t i = 0; i < dim; ++i) {
    const uint16_t narrow = kNarrow(weights[i]);
    std::memcpy(out + i * sizeof(narrow), &narrow, sizeof(narrow));
  }
}
template <float (*kWiden)(uint16_t)>
void ReadNarrow(const char* in, uint32_t dim, float* weights) {
  for (uint32_t i = 0; i < dim; ++i) {
    uint16_t narrow = 0;
    std::memcpy(&narrow, in + i * sizeof(narrow), sizeof(narrow));
    weights[i] = kWiden(narrow);
  }
}

}  // namespace

RowLayout::RowLayout(const TableSpec& spec)
    : dim_(spec.dim),
      state_floats_(StateFloats(spec.optimizer.kind, spec.dim)),
      dtype_(spec.dtype),
      head_bytes_(sizeof(RowHead) + (state_floats_ == 1 ? sizeof(float) : 0)),
      body_bytes_(sizeof(float) * (dim_ + (state_floats_ == 1 ? 0 : state_floats_))) {}

size_t RowLayout::stored_bytes() const {
  return sizeof(StoredHeader) + dim_ * WeightBytes(dtype_) + state_floats_ * sizeof(float);
}

void RowLayout::Encode(const RowRef& row, std::string* stored) const {
  const StoredHeader header{.dtype = static_cast<uint8_t>(dtype_),
                            .dim = static_cast<uint16_t>(dim_),
                            .state = static_cast<uint16_t>(state_floats_),
                            .updates = row.head.updates,
                            .last_step = row.head.last_step};
  stored->resize(stored_bytes());
  char* out = stored->data();
  std::memcpy(out, &header, sizeof(header));
  out += sizeof(header);
  switch (dtype_) {
    case StoreDtype::kFloat32:
      std::memcpy(out, row.weights, dim_ * sizeof(float));
      break;
    case StoreDtype::kFloat16:
      WriteNarrow<HalfOf>(row.weights, dim_, out);
      break;
    case StoreDtype::kBfloat16:
      WriteNarrow<BfloatOf>(row.weights, dim_, out);
      break;
  }
  out += dim_ * WeightBytes(dtype_);
  std::memcpy(out, row.state, state_floats_ * sizeof(float));
}

absl::Status RowLayout::Decode(std::string_view stored, const RowRef& row) const {
  if (stored.size() != stored_bytes()) {
    return absl::DataLossError(
        absl::StrCat("stored row has ", stored.size(), " bytes, not ", stored_bytes()));
  }
  StoredHeader header;
  std::memcpy(&header, stored.data(), sizeof(header));
  if (header.version != kVersion || header.dtype != static_cast<uint8_t>(dtype_) ||
      header.dim != dim_ || header.state != state_floats_ || header.zero != 0) {
    return absl::DataLossError(absl::StrCat(
        "stored row of version ", int{header.version}, ", dtype ", int{header.dtype}, ", dim ",
        int{header.dim}, ", state ", int{header.state}, "; want version ", int{kVersion},
        ", dtype ", static_cast<int>(dtype_), ", dim ", dim_, ", state ", state_floats_));
  }
  row.head.updates = header.updates;
  row.head.last_step = header.last_step;
  const char* in = stored.data() + sizeof(header);
  switch (dtype_) {
    case StoreDtype::kFloat32:
      std::memcpy(row.weights, in, dim_ * sizeof(float));
      break;
    case StoreDtype::kFloat16:
      ReadNarrow<FloatOfHalf>(in, dim_, row.weights);
      break;
    case StoreDtype::kBfloat16:
      ReadNarrow<FloatOfBfloat>(in, dim_, row.weights);
      break;
  }
  in += dim_ * WeightBytes(dtype_);
  std::memcpy(row.state, in, state_floats_ * sizeof(float));
  return absl::OkStatus();
}

}  // namespace savior
