#include "worker/remote_call.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>

#include "common/table_counters.h"

namespace savior {
namespace {

// Values per key, and their type, of a message about rows of `spec`.
uint32_t WireDim(MessageType type, const TableSpec& spec) {
  return HasWholeRows(type) ? RowFloats(spec) : spec.dim;
}

ValueDtype WireDtype(MessageType type, const MessagePlan& plan) {
  return HasWholeRows(type) ? ValueDtype::kFloat32 : plan.dtype;
}

// Collects slices into messages of a size.
class MessageDivider {
 public:
  MessageDivider(MessageType type, const MessagePlan& plan, std::vector<CallMessage>* messages)
      : type_(type), plan_(plan), messages_(messages) {}

  void NextShard(uint32_t shard) {
    shard_ = shard;
    left_ = 0;
  }

  void Add(MessageSlice slice) {
    const uint32_t dim = WireDim(type_, plan_.tables[slice.table]);
    const size_t per_key =
        sizeof(uint64_t) + sizeof(uint32_t) + dim * WidthOf(WireDtype(type_, plan_));
    const size_t most = std::max<size_t>(1, plan_.message_bytes / per_key);
    while (!slice.keys.empty()) {
      if (left_ < per_key || messages_->back().slices.size() == kMaxSections) {
        messages_->push_back({.shard = shard_, .slices = {}});
        left_ = std::max(plan_.message_bytes, per_key);
      }
      const size_t n = std::min({slice.keys.size(), most, left_ / per_key});
      messages_->back().slices.push_back(First(slice, n));
      slice = After(slice, n);
      left_ -= n * per_key;
    }
  }

 private:
  static MessageSlice First(MessageSlice slice, size_t n) {
    slice.keys = slice.keys.first(n);
    if (!slice.positions.empty()) slice.positions = slice.positions.first(n);
    return slice;
  }
  static MessageSlice After(MessageSlice slice, size_t n) {
    slice.keys = slice.keys.subspan(n);
    if (!slice.positions.empty()) slice.positions = slice.positions.subspan(n);
    slice.first += n;
    return slice;
  }

  const MessageType type_;
  const MessagePlan& plan_;
  std::vector<CallMessage>* const messages_;
  uint32_t shard_ = 0;
  size_t left_ = 0;  // bytes, of the last message
};

void GatherValues(const MessageSlice& slice, std::span<const float> values, uint32_t dim,
                  ValueDtype dtype, std::byte* out) {
  if (slice.positions.empty()) {
    EncodeValues(dtype, values.subspan(slice.first * dim, slice.keys.size() * dim), out);
    return;
  }
  const size_t row_bytes = dim * WidthOf(dtype);
  for (size_t i = 0; i < slice.positions.size(); ++i) {
    EncodeValues(dtype, values.subspan(size_t{slice.positions[i]} * dim, dim), out + i * row_bytes);
  }
}

void GatherUpdates(const MessageSlice& slice, std::span<const uint32_t> updates,
                   std::span<uint32_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = updates[slice.positions.empty() ? slice.first + i : slice.positions[i]];
  }
}

void ScatterRows(const MessageSlice& slice, const ReplySection& section, ValueDtype dtype,
                 const TablePull& pull) {
  const size_t dim = section.dim;
  const size_t n = slice.keys.size();
  if (slice.positions.empty()) {
    DecodeValues(dtype, section.values.data(), pull.rows.subspan(slice.first * dim, n * dim));
    if (!pull.updates.empty()) {
      std::copy_n(section.updates.begin(), n, pull.updates.begin() + slice.first);
    }
    return;
  }
  const size_t row_bytes = dim * WidthOf(dtype);
  for (size_t i = 0; i < n; ++i) {
    DecodeValues(dtype, section.values.data() + i * row_bytes,
                 pull.rows.subspan(size_t{slice.positions[i]} * dim, dim));
  }
  if (pull.updates.empty()) return;
  for (size_t i = 0; i < n; ++i) pull.updates[slice.positions[i]] = section.updates[i];
}

absl::Status DoesNotFit(const std::string& what) {
  return absl::DataLossError(absl::StrCat("the reply does not fit the request: ", what));
}

}  // namespace

void RemoteCall::ToEveryShard(uint32_t shards) {
  for (uint32_t s = 0; s < shards; ++s) messages.push_back({.shard = s, .slices = {}});
}

void RemoteCall::Divide(const MessagePlan& plan) {
  DivideKeys(plan);
  if (type != MessageType::kPush) return;
  std::vector<uint16_t> parts(plan.shards, 0);
  for (const CallMessage& message : messages) ++parts[message.shard];
  if (plan.clocked) {
    for (uint32_t s = 0; s < plan.shards; ++s) {
      if (parts[s] != 0) continue;
      messages.push_back({.shard = s, .slices = {}});
      parts[s] = 1;
    }
  }
  for (CallMessage& message : messages) message.parts = parts[message.shard];
}

void RemoteCall::DivideKeys(const MessagePlan& plan) {
  MessageDivider divider(type, plan, &messages);
  if (plan.shards == 1) {
    divider.NextShard(0);
    for (size_t r = 0; r < requests.size(); ++r) {
      divider.Add({.request = r,
                   .table = requests[r].table,
                   .keys = requests[r].keys,
                   .positions = {},
                   .first = 0});
    }
    return;
  }
  partition = std::make_unique<Partition>(requests, plan.bucket_map, plan.shards);
  for (uint32_t s = 0; s < plan.shards; ++s) {
    divider.NextShard(s);
    for (const Piece& piece : partition->Of(s)) {
      divider.Add({.request = piece.request,
                   .table = piece.table,
                   .keys = piece.selection.keys,
                   .positions = piece.selection.positions,
                   .first = 0});
    }
  }
}

Frame RemoteCall::Encode(size_t message, MessageHeader header, const MessagePlan& plan,
                         Context* context) const {
  header.type = type;
  header.dtype = WireDtype(type, plan);
  header.step = step;
  header.shard = messages[message].shard;
  header.parts = messages[message].parts;
  const auto dim_of = [&](const MessageSlice& slice) {
    return WireDim(type, plan.tables[slice.table]);
  };
  const std::vector<MessageSlice>& slices = messages[message].slices;
  size_t bytes = kMessageHeaderBytes;
  for (const MessageSlice& slice : slices) {
    bytes += RequestSectionBytes(type, header.dtype, dim_of(slice), slice.keys.size());
  }
  Frame frame = context->NewFrame(bytes);
  MessageWriter writer(frame.bytes(), header);
  for (const MessageSlice& slice : slices) {
    const uint32_t dim = dim_of(slice);
    const bool wanted = !pulls.empty() && !pulls[slice.request].updates.empty();
    const auto out = writer.AddRequestSection(slice.table, dim, slice.keys.size(), wanted);
    std::memcpy(out.keys.data(), slice.keys.data(), slice.keys.size_bytes());
    if (!values.empty()) {
      GatherValues(slice, values[slice.request], dim, header.dtype, out.values);
    }
    if (!updates.empty()) GatherUpdates(slice, updates[slice.request], out.updates);
  }
  writer.Finish();
  return frame;
}

absl::Status RemoteCall::AcceptRows(size_t message, const Reply& reply) {
  const std::vector<MessageSlice>& slices = messages[message].slices;
  if (reply.header.type != MessageType::kRows || reply.sections.size() != slices.size()) {
    return DoesNotFit("other tables");
  }
  if (HasWholeRows(type) && reply.header.dtype != ValueDtype::kFloat32) {
    return DoesNotFit("whole rows of another type than float32");
  }
  for (size_t i = 0; i < slices.size(); ++i) {
    const ReplySection& section = reply.sections[i];
    const TablePull& pull = pulls[slices[i].request];
    const size_t keys = slices[i].keys.size();
    const size_t dim = pull.rows.size() / pull.keys.size();
    if (section.table != slices[i].table || section.rows != keys || section.dim != dim ||
        section.updates.size() != (pull.updates.empty() ? 0 : keys)) {
      return DoesNotFit(absl::StrCat("table number ", section.table, ", ", section.rows,
                                     " rows of dim ", section.dim));
    }
    ScatterRows(slices[i], section, reply.header.dtype, pull);
  }
  return absl::OkStatus();
}

absl::Status RemoteCall::Accept(size_t message, const Reply& reply) {
  SAVIOR_RETURN_IF_ERROR(reply.error);
  switch (type) {
    case MessageType::kPull:
    case MessageType::kReadRows:
      return AcceptRows(message, reply);
    case MessageType::kStats:
      if (reply.header.type != MessageType::kCounters ||
          reply.sections.size() != stats.tables.size() + 1) {
        return DoesNotFit("other tables");
      }
      for (size_t t = 0; t < stats.tables.size(); ++t) {
        AddCounters(reply.sections[t].counters, &stats.tables[t]);
      }
      AddCounters(reply.sections.back().counters, stats_replies++ == 0, &stats.steps);
      return absl::OkStatus();
    default:
      return reply.header.type == MessageType::kDone ? absl::OkStatus() : DoesNotFit("no receipt");
  }
}

size_t RemoteCall::keys() const {
  size_t sum = 0;
  for (const TableKeys& request : requests) sum += request.keys.size();
  return sum;
}

}  // namespace savior
