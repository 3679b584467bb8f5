#include "ps/request_port.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <utility>

#include "common/store_checks.h"
#include "common/table_counters.h"

namespace savior {

RequestPort::RequestPort(const ServedShard& served, std::span<const TableSpec> tables,
                         ShardThread* thread, Context* context,
                         std::unique_ptr<RouterSocket> socket)
    : served_(served),
      tables_(tables),
      thread_(thread),
      context_(context),
      socket_(std::move(socket)),
      checker_(tables, served) {}

bool RequestPort::Serve(Shard& shard) {
  Frame peer;
  Frame request;
  if (!socket_->Receive(&peer, &request)) return false;
  Frame reply = Answer(std::as_const(request).bytes(), shard);
  if (std::as_const(reply).bytes().empty()) return true;
  // A client that has gone needs no reply; one that reads none asks again.
  if (!socket_->Send(std::move(peer), std::move(reply))) {
    LOG_EVERY_N(WARNING, 1000) << "shard " << served_.shard << ": a reply could not be delivered";
  }
  return true;
}

Frame RequestPort::Answer(std::span<const std::byte> request, Shard& shard) {
  Frame reply;
  absl::Status status = DecodeRequest(request, &request_);
  if (status.ok()) status = Execute(shard, &reply);
  if (status.ok()) return reply;
  MessageHeader header;
  if (PeekHeader(request, &header) && IsRequest(header.type) && IsAnswered(header.type)) {
    return ErrorReply(header, status);
  }
  LOG_EVERY_N(WARNING, 1000) << "shard " << served_.shard << ": dropped a message: " << status;
  return Frame();
}

absl::Status RequestPort::Execute(Shard& shard, Frame* reply) {
  SAVIOR_RETURN_IF_ERROR(CheckHeader(request_.header, served_));
  for (const RequestSection& section : request_.sections) {
    SAVIOR_RETURN_IF_ERROR(checker_.Check(section));
  }
  switch (request_.header.type) {
    case MessageType::kPull:
      return Pull(shard, reply);
    case MessageType::kPush:
    case MessageType::kPut:
      return PushOrPut(shard, reply);
    case MessageType::kHint:
      return Hint();
    case MessageType::kCancelHints:
      thread_->CancelHints(request_.header.step);
      return absl::OkStatus();
    case MessageType::kStats:
      return Stats(shard, reply);
    default:
      return absl::InvalidArgumentError("not a request");
  }
}

absl::Status RequestPort::Pull(Shard& shard, Frame* reply) {
  const ValueDtype dtype = request_.header.dtype;
  size_t bytes = kMessageHeaderBytes;
  // No overflow: all keys are in one frame, and dims are the tables'.
  for (const RequestSection& s : request_.sections) {
    bytes += RowsSectionBytes(dtype, s.dim, s.keys.size(), s.updates_wanted);
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
    const auto out = writer.AddRows(s.table, s.dim, n, s.updates_wanted);
    uint32_t* const updates = s.updates_wanted ? out.updates.data() : nullptr;
    const RowSelection selection{s.keys, {}};
    if (dtype == ValueDtype::kFloat32) {
      // Straight into the reply.
      SAVIOR_RETURN_IF_ERROR(
          shard.Pull(s.table, selection, reinterpret_cast<float*>(out.values), updates));
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

absl::Status RequestPort::PushOrPut(Shard& shard, Frame* reply) {
  const MessageHeader& header = request_.header;
  const bool push = header.type == MessageType::kPush;
  if (push) SAVIOR_RETURN_IF_ERROR(CheckStep(header.step));
  // All is checked before anything is applied.
  floats_.resize(std::max(floats_.size(), request_.sections.size()));
  std::vector<WritePart> parts;
  parts.reserve(request_.sections.size());
  for (size_t i = 0; i < request_.sections.size(); ++i) {
    const RequestSection& section = request_.sections[i];
    const std::span<const float> values = Floats(section, &floats_[i]);
    SAVIOR_RETURN_IF_ERROR(CheckWrite(section, values));
    parts.push_back({section.table, {section.keys, {}}, values.data()});
  }
  SAVIOR_ASSIGN_OR_RETURN(const bool is_new, windows_.IsNew(header.client, header.sequence));
  if (is_new) {
    // With a full disk nothing is applied, and the request may come again.
    SAVIOR_RETURN_IF_ERROR(push ? shard.Push(header.step, parts) : shard.Put(parts));
    windows_.Mark(header.client, header.sequence);
  }
  *reply = EmptyReply();
  return absl::OkStatus();
}

absl::Status RequestPort::CheckWrite(const RequestSection& section,
                                     std::span<const float> values) const {
  return request_.header.type == MessageType::kPush
             ? CheckPush(tables_, {section.table, section.keys, values})
             : CheckPut(tables_, {section.table, section.keys, values});
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
                                   tables_.size() * CountersSectionBytes(kTableCounters));
  MessageWriter writer(frame.bytes(), ReplyHeader(MessageType::kCounters));
  for (uint32_t t = 0; t < stats.size(); ++t) {
    PackCounters(stats[t], writer.AddCounters(t, kTableCounters));
  }
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
