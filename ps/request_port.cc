#include "ps/request_port.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "common/process.h"
#include "common/store_checks.h"
#include "common/table_counters.h"

namespace savior {
namespace {

// Requests put by: 64 each of 1,024 workers.
constexpr size_t kMaxWaiting = 65536;

}  // namespace

RequestPort::RequestPort(const ServedShard& served, std::span<const TableSpec> tables,
                         const RequestPortOptions& options, ShardThread* thread, Context* context,
                         std::unique_ptr<RouterSocket> socket)
    : served_(served),
      tables_(tables),
      thread_(thread),
      context_(context),
      socket_(std::move(socket)),
      options_(options),
      sums_pushes_(options.steps.has_value() && options.steps->synchronous() &&
                   options.steps->workers > 1),
      sum_(tables),
      checker_(tables, served) {
  if (options.steps.has_value()) clock_.emplace(*options.steps);
}

bool RequestPort::Serve(Shard& shard) {
  if (ServeWaiting(shard)) return true;
  Frame peer;
  Frame request;
  if (!socket_->Receive(&peer, &request)) return false;
  absl::Status read = Read(request);
  if (read.ok() && !IsDue(request_.header)) {
    read = clock_->CheckAhead(request_.header.step);
    Waiting early{std::move(peer), std::move(request), request_.header};
    if (read.ok()) read = PutBy(&early);
    if (read.ok()) return true;
    peer = std::move(early.peer);
    request = std::move(early.request);
  }
  Reply(std::move(peer), Answer(read, &request, false, shard));
  return true;
}

bool RequestPort::ServeWaiting(Shard& shard) {
  const auto due = std::ranges::find_if(
      waiting_, [this](const Waiting& waiting) { return IsDue(waiting.header); });
  if (due == waiting_.end()) return false;
  Waiting waiting = std::move(*due);
  waiting_.erase(due);
  waiting_bytes_ -= std::as_const(waiting.request).bytes().size();
  const absl::Status read = Read(waiting.request);
  Reply(std::move(waiting.peer), Answer(read, &waiting.request, true, shard));
  return true;
}

absl::Status RequestPort::Read(const Frame& request) {
  SAVIOR_RETURN_IF_ERROR(DecodeRequest(request.bytes(), &request_));
  return CheckHeader(request_.header, served_);
}

bool RequestPort::IsDue(const MessageHeader& header) const {
  if (!clock_.has_value()) return true;
  if (header.type == MessageType::kPull) {
    return header.step == kAnyStep || clock_->MayPull(header.step);
  }
  // A worker whose keys are all elsewhere is not held up by a pull here, and may be early.
  const bool waits = header.type == MessageType::kCheckpoint ||
                     (sums_pushes_ && header.type == MessageType::kPush);
  return !waits || header.step <= clock_->done();
}

absl::Status RequestPort::PutBy(Waiting* request) {
  const auto same = std::ranges::find_if(waiting_, [&](const Waiting& waiting) {
    return waiting.header.client == request->header.client &&
           waiting.header.sequence == request->header.sequence;
  });
  if (same != waiting_.end()) {
    same->peer = std::move(request->peer);  // it may have a new connection
    return absl::OkStatus();
  }
  // A checkpoint is its header only, and its client takes "exhausted" for a full disk.
  const size_t bytes = std::as_const(request->request).bytes().size();
  const bool too_long = waiting_bytes_ + bytes > options_.max_waiting_bytes &&
                        request->header.type != MessageType::kCheckpoint;
  // A client keeps to its window, and a run has so many workers: more is not from one of them.
  if (too_long || waiting_.size() >= kMaxWaiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat(waiting_.size(), " requests of ", waiting_bytes_, " bytes wait for worker ",
                     clock_->slowest(), " to push step ", clock_->done(),
                     ": no room for one of step ", request->header.step, " (at most ", kMaxWaiting,
                     " and ", options_.max_waiting_bytes, " bytes); ask again"));
  }
  waiting_bytes_ += bytes;
  waiting_.push_back(std::move(*request));
  return absl::OkStatus();
}

void RequestPort::Reply(Frame peer, Frame reply) {
  if (std::as_const(reply).bytes().empty()) return;
  // A client that has gone needs no reply; one that reads none asks again.
  if (!socket_->Send(std::move(peer), std::move(reply))) {
    LOG_EVERY_N(WARNING, 1000) << "shard " << served_.shard << ": a reply could not be delivered";
  }
}

Frame RequestPort::Answer(const absl::Status& read, Frame* request, bool held, Shard& shard) {
  // Kept beside the request, which may be moved away.
  MessageHeader header;
  const bool has_header = PeekHeader(std::as_const(*request).bytes(), &header);
  Frame reply;
  const absl::Status status = read.ok() ? Execute(request, held, shard, &reply) : read;
  if (status.ok()) return reply;
  if (has_header && IsRequest(header.type) && IsAnswered(header.type)) {
    return ErrorReply(header, status);
  }
  LOG_EVERY_N(WARNING, 1000) << "shard " << served_.shard << ": dropped a message: " << status;
  return Frame();
}

absl::Status RequestPort::Execute(Frame* request, bool held, Shard& shard, Frame* reply) {
  for (const RequestSection& section : request_.sections) {
    SAVIOR_RETURN_IF_ERROR(checker_.Check(request_.header.type, section));
  }
  switch (request_.header.type) {
    case MessageType::kPull:
      if (clock_.has_value() && request_.header.step != kAnyStep) {
        clock_->CountPull(request_.header.step, held);
      }
      return Pull(shard, reply);
    case MessageType::kReadRows:
      return Pull(shard, reply);
    case MessageType::kPush:
    case MessageType::kPut:
    case MessageType::kWriteRows:
      return Write(request, shard, reply);
    case MessageType::kHint:
      return Hint();
    case MessageType::kCancelHints:
      thread_->CancelHints(request_.header.step);
      return absl::OkStatus();
    case MessageType::kStats:
      return Stats(shard, reply);
    case MessageType::kCheckpoint:
      return Checkpoint(shard, reply);
    case MessageType::kCheckpointWritten:
      return CheckpointWritten(shard, reply);
    case MessageType::kSwitchCodebook:
      return SwitchCodebook(reply);
    default:
      return absl::InvalidArgumentError("not a request");
  }
}

absl::Status RequestPort::Pull(Shard& shard, Frame* reply) {
  const ValueDtype dtype = request_.header.dtype;
  const bool whole = HasWholeRows(request_.header.type);
  size_t bytes = kMessageHeaderBytes;
  // No overflow: all keys are in one frame, and dims are the tables'.
  for (const RequestSection& s : request_.sections) {
    bytes += RowsSectionBytes(dtype, s.dim, s.keys.size(), whole || s.updates_wanted);
  }
  if (bytes > kMaxFrameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the rows asked for take ", bytes,
                                                   " bytes: at most ", kMaxFrameBytes,
                                                   " fit a reply; ask for fewer keys at once"));
  }
  Frame frame = context_->NewFrame(bytes);
  MessageWriter writer(frame.bytes(), ReplyHeader(MessageType::kRows));
  for (const RequestSection& s : request_.sections) {
    const size_t n = s.keys.size();
    const auto out = writer.AddRows(s.table, s.dim, n, whole || s.updates_wanted);
    uint32_t* const updates = whole || s.updates_wanted ? out.updates.data() : nullptr;
    const RowSelection selection{s.keys, {}};
    if (dtype == ValueDtype::kFloat32) {
      // Straight into the reply.
      auto* const rows = reinterpret_cast<float*>(out.values);
      SAVIOR_RETURN_IF_ERROR(whole ? shard.ReadRows(s.table, selection, rows, updates)
                                   : shard.Pull(s.table, selection, rows, updates));
      continue;
    }
    rows_.resize(n * s.dim);
    SAVIOR_RETURN_IF_ERROR(shard.Pull(s.table, selection, rows_.data(), updates));
    EncodeValues(dtype, rows_, out.values);
  }
  writer.Finish();
  *reply = std::move(frame);
  return absl::OkStatus();
}

absl::Status RequestPort::Write(Frame* request, Shard& shard, Frame* reply) {
  const MessageHeader& header = request_.header;
  if (header.type != MessageType::kPut) SAVIOR_RETURN_IF_ERROR(CheckStep(header.step));
  // All is checked before anything is applied.
  floats_.resize(std::max(floats_.size(), request_.sections.size()));
  std::vector<WritePart> parts;
  parts.reserve(request_.sections.size());
  for (size_t i = 0; i < request_.sections.size(); ++i) {
    const RequestSection& section = request_.sections[i];
    const std::span<const float> values = Floats(section, &floats_[i]);
    SAVIOR_RETURN_IF_ERROR(CheckValues(section, values));
    parts.push_back({section.table, {section.keys, {}}, values.data(), section.updates.data()});
  }
  *reply = EmptyReply();
  SAVIOR_ASSIGN_OR_RETURN(const bool is_new, IsNew());
  if (!is_new) return absl::OkStatus();
  const uint64_t client = header.client;
  const uint64_t sequence = header.sequence;
  // With a full disk nothing is applied, and the request may come again.
  SAVIOR_RETURN_IF_ERROR(header.type == MessageType::kPush  ? Push(request, parts, shard)
                         : header.type == MessageType::kPut ? shard.Put(parts)
                                                            : shard.WriteRows(header.step, parts));
  windows_.Mark(client, sequence);
  return absl::OkStatus();
}

absl::Status RequestPort::Push(Frame* request, std::span<const WritePart> parts, Shard& shard) {
  const auto [worker, count] = std::pair(request_.header.worker, request_.header.parts);
  const int64_t step = request_.header.step;
  if (!clock_.has_value()) return shard.Push(step, parts);
  SAVIOR_RETURN_IF_ERROR(clock_->CheckPush(worker, step, count));
  if (!sums_pushes_) {
    SAVIOR_RETURN_IF_ERROR(shard.Push(step, parts));
  } else {
    sum_.Keep(std::move(*request));
    if (clock_->Completes(worker, step, count)) {
      absl::StatusOr<std::span<const WritePart>> sums = sum_.Sum();
      absl::Status status = sums.ok() ? shard.Push(step, *sums) : sums.status();
      if (!status.ok()) {
        sum_.DropLast();
        return status;
      }
      sum_.Clear();
    }
  }
  clock_->Push(worker, step, count);
  return absl::OkStatus();
}

absl::StatusOr<bool> RequestPort::IsNew() {
  SAVIOR_ASSIGN_OR_RETURN(const bool is_new,
                          windows_.IsNew(request_.header.client, request_.header.sequence));
  if (!is_new) ++repeated_;
  return is_new;
}

absl::Status RequestPort::Checkpoint(Shard& shard, Frame* reply) {
  const MessageHeader& header = request_.header;
  if (!options_.checkpoint_place) {
    return absl::FailedPreconditionError("this server writes no checkpoints");
  }
  SAVIOR_ASSIGN_OR_RETURN(const bool is_new, IsNew());
  if (is_new) {
    SAVIOR_RETURN_IF_ERROR(
        shard.Freeze(header.step, options_.checkpoint_place(header.step, served_.shard)));
    windows_.Mark(header.client, header.sequence);
  }
  *reply = EmptyReply();
  return absl::OkStatus();
}

absl::Status RequestPort::CheckpointWritten(Shard& shard, Frame* reply) {
  const std::optional<absl::Status> written = shard.CheckpointOf(request_.header.step);
  if (!written.has_value()) {
    return absl::UnavailableError(absl::StrCat("the checkpoint of step ", request_.header.step,
                                               " is still being written: ask again"));
  }
  SAVIOR_RETURN_IF_ERROR(*written);
  *reply = EmptyReply();
  return absl::OkStatus();
}

absl::Status RequestPort::CheckValues(const RequestSection& section,
                                      std::span<const float> values) const {
  switch (request_.header.type) {
    case MessageType::kPush:
      return CheckPush(tables_, {section.table, section.keys, values});
    case MessageType::kPut:
      return CheckPut(tables_, {section.table, section.keys, values});
    default:
      return CheckWrite(tables_, {section.table, section.keys, values, section.updates});
  }
}

absl::Status RequestPort::SwitchCodebook(Frame* reply) {
  const MessageHeader& header = request_.header;
  if (header.step < 0 || header.step > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("codebook version ", header.step, " is not in [0, 2^32)"));
  }
  const auto version = static_cast<uint32_t>(header.step);
  // One that is late, when there have been others since, must not go back: whether it was done, or
  // given up by its client before it came here.
  SAVIOR_ASSIGN_OR_RETURN(const bool is_new, IsNew());
  if (is_new && header.client == switch_client_ && header.sequence < switch_sequence_) {
    return absl::FailedPreconditionError(absl::StrCat("a switch to codebook version ", version,
                                                      " that was overtaken by another one"));
  }
  if (is_new && version != served_.codebook_version) {
    SAVIOR_RETURN_IF_ERROR(CheckCodebook(header.codebook_version, served_));
    if (!sum_.empty()) {
      // Gradients of both versions would be added up.
      return absl::FailedPreconditionError(
          absl::StrCat("some workers have pushed step ", clock_->done(), ", worker ",
                       clock_->slowest(), " has not: the codebook changes between steps"));
    }
    served_.codebook_version = version;
    RefuseStale();
  }
  if (is_new) {
    windows_.Mark(header.client, header.sequence);
    switch_client_ = header.client;
    switch_sequence_ = header.sequence;
  }
  *reply = EmptyReply();
  return absl::OkStatus();
}

void RequestPort::RefuseStale() {
  std::deque<Waiting> waiting = std::exchange(waiting_, {});
  for (Waiting& request : waiting) {
    const absl::Status status = CheckCodebook(request.header.codebook_version, served_);
    if (status.ok()) {
      waiting_.push_back(std::move(request));
      continue;
    }
    waiting_bytes_ -= std::as_const(request.request).bytes().size();
    Reply(std::move(request.peer), ErrorReply(request.header, status));
  }
}

absl::Status RequestPort::Hint() {
  for (const RequestSection& s : request_.sections) {
    thread_->PostHint(request_.header.step, s.table, {s.keys.begin(), s.keys.end()});
  }
  return absl::OkStatus();
}

absl::Status RequestPort::Stats(const Shard& shard, Frame* reply) {
  std::vector<TableStats> stats(tables_.size());
  shard.AddStats(stats);
  Frame frame = context_->NewFrame(kMessageHeaderBytes +
                                   tables_.size() * CountersSectionBytes(kTableCounters) +
                                   CountersSectionBytes(kStepCounters));
  MessageWriter writer(frame.bytes(), ReplyHeader(MessageType::kCounters));
  for (uint32_t t = 0; t < stats.size(); ++t) {
    PackCounters(stats[t], writer.AddCounters(t, kTableCounters));
  }
  // As if the clock were one more table.
  StepStats steps = clock_.has_value() ? clock_->stats() : StepStats{};
  steps.repeated = repeated_;
  if (options_.counts_cpu) steps.server_cpu_us = static_cast<uint64_t>(ProcessCpuSeconds() * 1e6);
  PackCounters(steps, writer.AddCounters(static_cast<uint32_t>(stats.size()), kStepCounters));
  writer.Finish();
  *reply = std::move(frame);
  return absl::OkStatus();
}

std::span<const float> RequestPort::Floats(const RequestSection& section,
                                           std::vector<float>* scratch) const {
  const size_t n = section.keys.size() * section.dim;
  if (request_.header.dtype == ValueDtype::kFloat32) {
    return {reinterpret_cast<const float*>(section.values.data()), n};
  }
  scratch->resize(n);
  DecodeValues(request_.header.dtype, section.values.data(), *scratch);
  return *scratch;
}

MessageHeader RequestPort::ReplyHeader(MessageType type) const {
  MessageHeader header = request_.header;
  header.type = type;
  return header;
}

Frame RequestPort::EmptyReply() {
  Frame frame = context_->NewFrame(kMessageHeaderBytes);
  MessageWriter(frame.bytes(), ReplyHeader(MessageType::kDone)).Finish();
  return frame;
}

Frame RequestPort::ErrorReply(const MessageHeader& request, const absl::Status& status) {
  MessageHeader header = request;
  header.type = MessageType::kError;
  header.dtype = ValueDtype::kFloat32;  // the request's may be no type at all
  Frame frame = context_->NewFrame(kMessageHeaderBytes + ErrorBytes(status));
  MessageWriter writer(frame.bytes(), header);
  writer.AddError(status);
  writer.Finish();
  return frame;
}

}  // namespace savior
