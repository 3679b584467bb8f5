#include "worker/mpi_bucket.h"

#include <algorithm>
#include <cmath>

#include "common/simd.h"

namespace savior {
namespace {

constexpr int kScatterTag = 1, kGatherTag = 2;

SAVIOR_SIMD void Add(const float* __restrict from, float* __restrict to, size_t n) {
  for (size_t i = 0; i < n; ++i) to[i] += from[i];
}

// residual = wanted - sent; wanted = sent.
SAVIOR_SIMD void KeepResidual(const float* __restrict sent, float* __restrict wanted,
                              float* __restrict residual, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const float lost = wanted[i] - sent[i];
    // Not so for what is not finite: it would never leave.
    residual[i] = std::abs(lost) <= 3e38f ? lost : 0.0f;
    wanted[i] = sent[i];
  }
}

}  // namespace

MpiBucket::MpiBucket(const MpiGroup* group, std::span<float> values, ValueDtype wire,
                     Residuals residuals)
    : group_(group),
      values_(values),
      wire_(wire),
      width_(WidthOf(wire)),
      residuals_(residuals),
      slice_stride_((SliceSize(group->rank()) * width_ + 3) / 4 * 4),
      transfers_(&group->world()) {}

void MpiBucket::Encode(std::span<float> values, std::span<float> residual, std::byte* out) {
  if (wire_ == ValueDtype::kFloat32) return EncodeValues(wire_, values, out);
  Add(residual.data(), values.data(), values.size());
  EncodeValues(wire_, values, out);
  scratch_.resize(std::max(scratch_.size(), values.size()));
  const auto sent = std::span(scratch_).first(values.size());
  DecodeValues(wire_, out, sent);
  KeepResidual(sent.data(), values.data(), residual.data(), values.size());
}

void MpiBucket::StartScatter() {
  phase_ = Phase::kScatter;
  Buffers& b = *buffers_;
  b.contribution.resize(values_.size() * width_);
  b.slices.resize(group_->size() * slice_stride_);
  Encode(values_, residuals_.contribution, b.contribution.data());
  for (uint32_t r = 0; r < group_->size(); ++r) {
    if (r == group_->rank()) continue;
    // Where a slice is empty nothing goes: both sides know.
    const uint32_t peer = group_->members()[r];
    if (const size_t own = SliceSize(group_->rank()) * width_; own > 0) {
      transfers_.Receive(peer, group_->tag(kScatterTag),
                         std::span(b.slices).subspan(r * slice_stride_, own), buffers_);
    }
    if (const size_t theirs = SliceSize(r) * width_; theirs > 0) {
      transfers_.Send(peer, group_->tag(kScatterTag),
                      std::span(b.contribution).subspan(SliceBegin(r) * width_, theirs), buffers_);
      bytes_sent_ += theirs;
    }
  }
}

void MpiBucket::StartGather() {
  phase_ = Phase::kGather;
  Buffers& b = *buffers_;
  const size_t own_begin = SliceBegin(group_->rank()), own = SliceSize(group_->rank());
  const auto mine = values_.subspan(own_begin, own);  // as it was sent: rounded
  std::vector<float> sum(own), slice(own);
  for (uint32_t r = 0; r < group_->size(); ++r) {
    std::span<const float> from = mine;
    if (r != group_->rank()) {
      DecodeValues(wire_, b.slices.data() + r * slice_stride_, slice);
      from = slice;
    }
    // The first is taken as it is: 0 + -0 would be another zero.
    if (r == 0) {
      std::ranges::copy(from, sum.begin());
    } else {
      Add(from.data(), sum.data(), own);
    }
  }
  b.own_sum.resize(own * width_);
  const bool rounded = wire_ != ValueDtype::kFloat32;
  Encode(sum, rounded ? residuals_.sum.subspan(own_begin, own) : std::span<float>(),
         b.own_sum.data());
  b.sums.resize(values_.size() * width_);
  std::ranges::copy(b.own_sum, b.sums.begin() + static_cast<int64_t>(own_begin * width_));
  for (uint32_t r = 0; r < group_->size(); ++r) {
    if (r == group_->rank()) continue;
    const uint32_t peer = group_->members()[r];
    if (const size_t theirs = SliceSize(r) * width_; theirs > 0) {
      transfers_.Receive(peer, group_->tag(kGatherTag),
                         std::span(b.sums).subspan(SliceBegin(r) * width_, theirs), buffers_);
    }
    if (own > 0) {
      transfers_.Send(peer, group_->tag(kGatherTag), std::span(b.own_sum), buffers_);
      bytes_sent_ += own * width_;
    }
  }
}

absl::StatusOr<bool> MpiBucket::Poll() {
  SAVIOR_ASSIGN_OR_RETURN(bool moved, transfers_.Poll());
  if (!transfers_.done()) return moved;
  if (phase_ == Phase::kScatter) {
    phase_ = Phase::kScattered;
    moved = true;
  } else if (phase_ == Phase::kGather) {
    DecodeValues(wire_, buffers_->sums.data(), values_);
    phase_ = Phase::kDone;
    moved = true;
  }
  return moved;
}

}  // namespace savior
