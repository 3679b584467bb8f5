#include "ps/row_slice.h"

#include <span>

namespace savior {
namespace {

// Large enough that the hand-over to the shard's thread costs nothing, small enough for any cache.
constexpr uint64_t kRows = 4096;

}  // namespace

absl::Status RowSlice::Fill(Shard* shard, uint32_t table, uint64_t from) {
  at_ = 0;
  next_ = from;
  heads_.clear();
  values_.clear();
  // Rows may all be forgotten ones.
  while (heads_.empty() && next_.has_value()) {
    SAVIOR_ASSIGN_OR_RETURN(next_,
                            shard->VisitRows(table, *next_, kRows, [this](const StoredRow& row) {
                              dim_ = row.weights.size();
                              state_ = row.state.size();
                              heads_.push_back({row.key, row.updates, row.last_step});
                              values_.insert(values_.end(), row.weights.begin(), row.weights.end());
                              values_.insert(values_.end(), row.state.begin(), row.state.end());
                              return absl::OkStatus();
                            }));
  }
  return absl::OkStatus();
}

StoredRow RowSlice::row() const {
  const Head& head = heads_[at_];
  const std::span<const float> values =
      std::span(values_).subspan(at_ * (dim_ + state_), dim_ + state_);
  return {.key = head.key,
          .weights = values.first(dim_),
          .state = values.subspan(dim_),
          .updates = head.updates,
          .last_step = head.last_step};
}

}  // namespace savior
