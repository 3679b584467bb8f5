// A shard's checkpoints: how a cut gets into a database of its own while requests go on.
#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "common/failpoint.h"
#include "ps/shard.h"
#include "ps/shard_note.h"

namespace savior {
namespace {

// Slices that the second thread is given at a time: enough that it never waits for one.
constexpr size_t kSlicesAhead = 2;
// RAM for what is on its way, unless options say how much: this, or a part of the budget.
constexpr uint64_t kLeastHeldBytes = uint64_t{64} << 20;
constexpr uint64_t kHeldPart = 4;

std::string Describe(int64_t step, const CheckpointPlace& place) {
  return absl::StrCat("checkpoint of step ", step, " into ", place.folder.string());
}

}  // namespace

absl::Status Shard::Freeze(int64_t step, const CheckpointPlace& place) {
  SAVIOR_FAILPOINT("shard.before_freeze");
  SAVIOR_RETURN_IF_ERROR(Begin());
  if (checkpoint_.has_value()) {
    return Remember(absl::FailedPreconditionError(absl::StrCat(
                        "the ", Describe(checkpoint_->step, checkpoint_->place),
                        " is still being written: one at a time, so not of step ", step)),
                    false);
  }
  SAVIOR_RETURN_IF_ERROR(WriteHeld(0));
  std::vector<uint64_t> rows;
  Checkpointing& c = checkpoint_.emplace(Checkpointing{});
  c.step = step;
  c.place = place;
  c.job = {.place = place, .live = options_.folder, .digests = &digests_};
  for (const auto& table : tables_) {
    table->BeginCut();
    rows.push_back(table->stored_rows());
    c.job.rules.push_back(table->SaveRules());
  }
  c.job.note = ShardNote::Of(options_.number, options_.shards, options_.seed, options_.tables, rows)
                   .Encode();
  SAVIOR_FAILPOINT("shard.after_freeze");
  GoOnWriting();
  return absl::OkStatus();
}

std::optional<absl::Status> Shard::CheckpointOf(int64_t step) {
  Begin().IgnoreError();  // it is remembered
  if (!failure_.ok()) return AlreadyFailed();
  if (checkpoint_.has_value() && checkpoint_->step == step) return std::nullopt;
  if (!checkpoint_.has_value() && written_.has_value() && written_->step == step) {
    return written_->status;
  }
  return Remember(absl::FailedPreconditionError(
                      absl::StrCat("no checkpoint of step ", step, " was begun here")),
                  false);
}

absl::Status Shard::FinishCheckpoint() {
  SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
  while (checkpoint_.has_value()) {
    if (!GoOnWriting()) SAVIOR_RETURN_IF_ERROR(WaitForJob());
  }
  return absl::OkStatus();
}

absl::Status Shard::WaitForJob() {
  std::optional<ColdJob> job = cold_thread_->WaitDone();
  CHECK(job.has_value()) << "a checkpoint waits for nothing";
  SAVIOR_RETURN_IF_ERROR(TakeIn(*std::move(job)));
  return AlreadyFailed();
}

bool Shard::GoOnWriting() {
  if (!checkpoint_.has_value()) return PostHeld();
  Checkpointing& c = *checkpoint_;
  if (c.posted) return false;
  if (!c.failed.ok()) {
    if (c.slices > 0) return false;  // they put their rows back first
    EndCheckpoint(c.failed);
    return true;
  }
  bool all = true;
  for (const auto& table : tables_) {
    if (table->CutIsPosted()) continue;
    all = false;
    // With enough under way, only what requests have to copy is collected.
    if (c.slices >= kSlicesAhead) return false;
    const bool collected = table->Collect();
    if (PostSlice(table.get()) || collected) return true;
  }
  if (!all || c.slices > 0) return false;
  c.posted = true;
  cold_thread_->Post(std::move(c.job));
  return true;
}

bool Shard::PostSlice(Table* table) {
  std::optional<ColdSlice> slice = table->NextSlice();
  if (!slice.has_value()) return false;
  checkpoint_->slice_bytes += slice->bytes();
  ++checkpoint_->slices;
  cold_thread_->Post(*std::move(slice));
  return true;
}

void Shard::EndCheckpoint(absl::Status status) {
  if (!status.ok()) {
    LOG(WARNING) << "shard " << options_.number << ": no "
                 << Describe(checkpoint_->step, checkpoint_->place) << ": " << status;
  }
  written_ = {checkpoint_->step, std::move(status)};
  checkpoint_.reset();
  for (const auto& table : tables_) table->EndCut();
}

absl::Status Shard::TakeInSlice(const ColdSlice& slice) {
  --checkpoint_->slices;
  checkpoint_->slice_bytes -= slice.bytes();
  tables_[slice.table]->FinishSlice(slice);
  // Without this slice there is no checkpoint; its rows are dirty again.
  const absl::Status status = Annotate(Remember(slice.status, false), "writing the rows of a cut");
  if (checkpoint_->failed.ok()) checkpoint_->failed = status;
  return absl::IsDataLoss(status) ? status : absl::OkStatus();
}

absl::Status Shard::TakeInCheckpoint(const ColdCheckpoint& job) {
  const absl::Status status = Remember(job.status, false);
  EndCheckpoint(status);
  return absl::IsDataLoss(status) ? status : absl::OkStatus();
}

size_t Shard::HeldBytes() const {
  size_t bytes = 0;
  for (const auto& table : tables_) bytes += table->held_bytes();
  return bytes;
}

bool Shard::PostHeld() {
  if (AfterFullDisk()) return false;
  for (const auto& table : tables_) {
    absl::StatusOr<std::optional<ColdWrite>> held = table->NextHeld();
    if (!Remember(held.status(), true).ok()) return false;
    if (!held->has_value()) continue;
    cold_thread_->Post(**std::move(held));
    return true;
  }
  return false;
}

absl::Status Shard::WriteHeld(size_t most) {
  while (HeldBytes() > most) {
    PostHeld();
    SAVIOR_RETURN_IF_ERROR(AlreadyFailed());
    if (AfterFullDisk() || cold_thread_->outstanding() == 0) {
      return Remember(absl::ResourceExhaustedError(
                          absl::StrCat(HeldBytes(),
                                       " bytes of rows that left RAM during the last checkpoint "
                                       "cannot be written: the disk is full")),
                      false);
    }
    SAVIOR_RETURN_IF_ERROR(WaitForJob());
  }
  return absl::OkStatus();
}

absl::Status Shard::KeepUp() {
  if (!checkpoint_.has_value() && HeldBytes() == 0) return absl::OkStatus();
  GoOnWriting();
  const uint64_t most = options_.held_bytes.value_or(
      std::max(kLeastHeldBytes, options_.ram_budget_bytes / kHeldPart));
  // Copies that requests made: posted when there are enough, whatever is under way.
  const auto copied = [this] {
    uint64_t bytes = checkpoint_.has_value() ? checkpoint_->slice_bytes : 0;
    for (const auto& table : tables_) bytes += table->slice_bytes();
    return bytes;
  };
  for (const auto& table : tables_) {
    if (checkpoint_.has_value() && checkpoint_->failed.ok()) PostSlice(table.get());
  }
  while (checkpoint_.has_value() && checkpoint_->slices > 0 && copied() > most) {
    SAVIOR_RETURN_IF_ERROR(WaitForJob());
  }
  if (HeldBytes() <= most) return absl::OkStatus();
  SAVIOR_RETURN_IF_ERROR(FinishCheckpoint());
  const absl::Status written = WriteHeld(most);
  return absl::IsResourceExhausted(written) ? absl::OkStatus() : written;  // it stays held
}

}  // namespace savior
