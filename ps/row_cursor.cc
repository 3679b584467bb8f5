#include "ps/row_cursor.h"

#include <utility>

namespace savior {

RowCursor::RowCursor(uint32_t shards, Fill fill) : fill_(std::move(fill)), sources_(shards) {
  for (uint32_t s = 0; s < shards; ++s) {
    sources_[s].shard = s;
    ReadFrom(&sources_[s], {});
  }
}

void RowCursor::ReadFrom(Source* source, const RowSlice::Start& start) {
  source->reading = std::async(std::launch::async, [this, source, start] {
    return fill_(source->shard, start, &source->behind);
  });
}

absl::Status RowCursor::Advance(Source* source) {
  if (!source->reading.valid()) return absl::OkStatus();  // at its end
  SAVIOR_RETURN_IF_ERROR(source->reading.get());
  std::swap(source->now, source->behind);
  if (source->now.next()) ReadFrom(source, *source->now.next());
  return absl::OkStatus();
}

absl::StatusOr<bool> RowCursor::Next() {
  if (!begun_) {
    begun_ = true;
    for (Source& source : sources_) SAVIOR_RETURN_IF_ERROR(Advance(&source));
  } else if (at_ != nullptr) {
    at_->now.Pop();
    if (at_->now.empty()) SAVIOR_RETURN_IF_ERROR(Advance(at_));
  }
  // Shards are few: the least of their first keys is found by looking at each.
  at_ = nullptr;
  for (Source& source : sources_) {
    if (!source.now.empty() && (at_ == nullptr || source.now.key() < at_->now.key())) {
      at_ = &source;
    }
  }
  return at_ != nullptr;
}

}  // namespace savior
