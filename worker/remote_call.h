// A call under way: which messages it takes, and what their replies fill in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/message.h"
#include "common/partition.h"
#include "common/store.h"
#include "common/transport.h"

namespace savior {

// The rows of one table that one message is about.
struct MessageSlice {
  size_t request = 0;  // index into the call's requests
  uint32_t table = 0;
  std::span<const uint64_t> keys;
  // keys[i] is the request's key number positions[i], or first + i if positions is empty (one
  // shard: the caller's own order).
  std::span<const uint32_t> positions;
  size_t first = 0;
};

struct CallMessage {
  uint32_t shard = 0;
  uint16_t parts = 0;  // push: messages to this shard
  std::vector<MessageSlice> slices;
};

// How calls are divided into messages. bucket_map: [kBuckets].
struct MessagePlan {
  std::span<const TableSpec> tables;
  std::span<const uint32_t> bucket_map;
  uint32_t shards = 1;
  ValueDtype dtype = ValueDtype::kFloat32;
  bool clocked = false;      // every shard gets a part of every push, of no keys too
  size_t message_bytes = 0;  // about this much per message, in the larger of the two directions
};

// Single-threaded. Must not move: connections point to it while it waits.
struct RemoteCall {
  MessageType type = MessageType::kPull;
  int64_t step = 0;
  Deadline deadline;
  // By type. Spans are the caller's.
  std::vector<TableKeys> requests;
  std::vector<TablePull> pulls;                    // kPull; kReadRows, of whole rows
  std::vector<std::span<const float>> values;      // kPush, kPut, kWriteRows
  std::vector<std::span<const uint32_t>> updates;  // kWriteRows
  StoreStats stats;                                // kStats
  size_t stats_replies = 0;

  std::unique_ptr<Partition> partition;  // more than one shard: what messages point into
  std::vector<CallMessage> messages;
  size_t answered = 0;
  absl::Status result;   // the first error
  absl::Status waiting;  // why a shard has been asked again

  // Fills `messages` from `requests`.
  void Divide(const MessagePlan& plan);
  // One message to every shard, without keys.
  void ToEveryShard(uint32_t shards);
  // The frame of messages[message]. Copies keys and values: the caller's spans are not needed by
  // it.
  Frame Encode(size_t message, MessageHeader header, const MessagePlan& plan,
               Context* context) const;
  // Takes the reply to messages[message] in. An error, what the shard says or that the reply does
  // not fit, is the call's own.
  [[nodiscard]] absl::Status Accept(size_t message, const Reply& reply);

  size_t keys() const;

 private:
  void DivideKeys(const MessagePlan& plan);
  [[nodiscard]] absl::Status AcceptRows(size_t message, const Reply& reply);
};

}  // namespace savior
