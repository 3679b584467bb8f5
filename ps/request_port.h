// One shard's end of the wire: takes requests from its socket, serves them, replies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/message.h"
#include "common/store.h"
#include "common/transport.h"
#include "ps/checkpoint_place.h"
#include "ps/request_checks.h"
#include "ps/sequence_window.h"
#include "ps/shard_port.h"
#include "ps/shard_thread.h"
#include "ps/step_clock.h"
#include "ps/step_sum.h"

namespace savior {

struct RequestPortOptions {
  // None: pulls and pushes are served as they come.
  std::optional<StepRules> steps = std::nullopt;
  // Where the checkpoint of the commit at `step` belongs. None: checkpoints are refused.
  std::function<CheckpointPlace(int64_t step, uint32_t shard)> checkpoint_place = nullptr;
  bool counts_cpu = false;                       // statistics include the CPU time of this process
  size_t max_waiting_bytes = size_t{256} << 20;  // of requests that wait for their step
};

// What arrives may be any bytes: whatever is wrong with them, the answer is a typed error, or,
// where not even the header makes sense, none. Used by the shard's thread only, as a ShardPort.
//
// With step rules, a pull, checkpoint or (synchronous) push of a step whose time has not come is
// put by until another push makes it so. What waits is bounded, by number and by bytes: beyond that
// a request is refused (kResourceExhausted), to come again; none that is due ever is.
//
// A switch of the codebook's version is between two requests: what is served before is of the old
// version, and what comes later, or waits, and says the old one is refused (kFailedPrecondition).
class RequestPort final : public ShardPort {
 public:
  // Everything pointed to outlives the port. `thread` runs it, and keeps the shard's hints.
  RequestPort(const ServedShard& served, std::span<const TableSpec> tables,
              const RequestPortOptions& options, ShardThread* thread, Context* context,
              std::unique_ptr<RouterSocket> socket);

  const std::string& endpoint() const { return socket_->endpoint(); }

  int fd() const override { return socket_->fd(); }
  bool Serve(Shard& shard) override;

 private:
  struct Waiting {
    Frame peer, request;
    MessageHeader header;
  };

  bool ServeWaiting(Shard& shard);
  // Whether a request's step has come.
  bool IsDue(const MessageHeader& header) const;
  // Puts a request by; one that is there already is the same one, sent again. kResourceExhausted,
  // and `request` is as it was: too much waits already.
  absl::Status PutBy(Waiting* request);
  void Reply(Frame peer, Frame reply);
  // Decodes a request to request_: it is whole, and for this shard of this run.
  absl::Status Read(const Frame& request);
  // The reply to a request that has been read (`read`: what Read said), or no bytes if there is
  // none to send. `request` is kept where it is a part of a sum.
  Frame Answer(const absl::Status& read, Frame* request, bool held, Shard& shard);
  // The reply is in *reply if OK, unless the request gets none.
  absl::Status Execute(Frame* request, bool held, Shard& shard, Frame* reply);
  absl::Status Pull(Shard& shard, Frame* reply);
  // A push, put or write.
  absl::Status Write(Frame* request, Shard& shard, Frame* reply);
  absl::Status Push(Frame* request, std::span<const WritePart> parts, Shard& shard);
  // Whether the request is to be applied, and then marked in windows_; counts those that are not.
  absl::StatusOr<bool> IsNew();
  absl::Status Checkpoint(Shard& shard, Frame* reply);
  absl::Status CheckpointWritten(Shard& shard, Frame* reply);
  absl::Status CheckValues(const RequestSection& section, std::span<const float> values) const;
  absl::Status SwitchCodebook(Frame* reply);
  // Answers what waits and is of another codebook version than the one served: it is stale.
  void RefuseStale();
  absl::Status Hint();
  absl::Status Stats(const Shard& shard, Frame* reply);

  // A section's values as floats: in the frame itself if they are, else decoded to `scratch`.
  std::span<const float> Floats(const RequestSection& section, std::vector<float>* scratch) const;
  MessageHeader ReplyHeader(MessageType type) const;
  Frame EmptyReply();
  Frame ErrorReply(const MessageHeader& request, const absl::Status& status);

  ServedShard served_;  // its codebook version changes
  const std::span<const TableSpec> tables_;
  ShardThread* const thread_;
  Context* const context_;
  const std::unique_ptr<RouterSocket> socket_;

  const RequestPortOptions options_;
  const bool sums_pushes_;  // synchronous, and more than one worker
  std::optional<StepClock> clock_;
  StepSum sum_;
  std::deque<Waiting> waiting_;
  size_t waiting_bytes_ = 0;  // of their frames
  SequenceWindows windows_;
  // The last switch of the codebook that was done.
  uint64_t switch_client_ = 0, switch_sequence_ = 0;
  uint64_t repeated_ = 0;  // requests that had been applied already
  SectionChecker checker_;
  // Kept for the next request.
  Request request_;
  std::vector<std::vector<float>> floats_;  // per section, where values are not float32
  std::vector<float> rows_;
};

}  // namespace savior
