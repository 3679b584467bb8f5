// RemoteStore: the embedding store over the network, one connection per shard (ps/server.h).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/store.h"
#include "common/transport.h"
#include "common/value_codec.h"
#include "worker/remote_call.h"
#include "worker/shard_link.h"
#include "worker/turn.h"

namespace savior {

struct RemoteStoreOptions {
  std::vector<TableSpec> tables;       // the servers'
  std::vector<std::string> endpoints;  // one per shard, in order
  // CURVE: the servers' public keys, one per shard; empty: all have security.server_key.
  std::vector<std::string> server_keys = {};
  uint64_t incarnation = 0;
  uint32_t codebook_version = 0;  // at first: SwitchCodebook
  uint16_t worker = 0;
  // The servers keep a clock of steps: a push goes to every shard, of no keys too.
  bool clocked = false;
  // Of rows and gradients on the wire. 16-bit ones are rounded to the nearest: a row then reads as
  // its rounded value, and a gradient is applied rounded.
  ValueDtype wire_dtype = ValueDtype::kFloat32;
  // Requests to one shard from the oldest unanswered to the newest: 1 .. 64.
  uint32_t max_in_flight = 16;
  // What is not answered is sent again after this, and after ever longer waits up to eight times
  // this; a push is applied once all the same.
  std::chrono::milliseconds retry_after{2000};
  // Larger calls are sent as several messages, so that shard, network and worker overlap.
  size_t message_bytes = size_t{4} << 20;
  SocketSecurity security = {};
};

// Thread-safe: callers take turns, each for one call of a method, and wait for their turn up to
// their deadline. A caller that waits for replies keeps its turn meanwhile, so several callers that
// want their requests in flight at the same time should use one store each; one caller starts
// several calls, and then finishes them.
//
// A call never touches its spans after it has returned, also not when it returned an error. Errors
// beyond the interface's: kDeadlineExceeded names the shard, its endpoint and what was asked.
// kFailedPrecondition: a shard of another incarnation of the run, or another codebook version. A
// push that returns an error may be applied in part or whole: go back to a commit. A restarted
// shard has a new incarnation: make a new store. A write to a shard whose disk is full is tried
// again up to the deadline, then kResourceExhausted.
class RemoteStore final : public EmbeddingStore {
 public:
  // Does not wait for connections. context outlives the store. kInvalidArgument: bad options; for a
  // socket's: DealerSocket::Connect's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<RemoteStore>> Connect(
      Context* context, RemoteStoreOptions options);
  ~RemoteStore() override;

  const std::vector<TableSpec>& tables() const override { return options_.tables; }
  [[nodiscard]] absl::Status Pull(std::span<const TablePull> pulls, Deadline deadline) override;
  [[nodiscard]] absl::Status Push(int64_t step, std::span<const TablePush> pushes,
                                  Deadline deadline) override;
  [[nodiscard]] absl::Status Put(std::span<const TablePut> puts, Deadline deadline) override;
  // In float32, whatever wire_dtype is.
  [[nodiscard]] absl::Status ReadRows(std::span<const TableRead> reads, Deadline deadline) override;
  [[nodiscard]] absl::Status WriteRows(int64_t step, std::span<const TableWrite> writes,
                                       Deadline deadline) override;
  // Both are sent once, or dropped: while another caller has its turn (a hint; a cancellation is
  // sent with the next call), or without a connection. What a shard says to them is not heard.
  [[nodiscard]] absl::Status Hint(int64_t step, std::span<const TableKeys> keys) override;
  [[nodiscard]] absl::Status CancelHints(int64_t from_step) override;
  [[nodiscard]] absl::StatusOr<StoreStats> Stats(Deadline deadline) override;

  // Every shard begins a checkpoint of its rows as they are after `steps` steps of all workers, to
  // where its server says (ps/server.h). Returns when all have frozen: from then on pushes may
  // come. An error of one shard does not stop the others: CheckpointWritten says when they are
  // done.
  [[nodiscard]] absl::Status Freeze(int64_t steps, Deadline deadline);
  // False: a shard still writes its checkpoint. True: all have written it. Errors: none writes any
  // more, and one has none (kResourceExhausted: its disk is full).
  [[nodiscard]] absl::StatusOr<bool> CheckpointWritten(int64_t steps, Deadline deadline);

  // Every shard serves the codebook version `version` from now on, and so does this store: what
  // other stores send before their UseCodebook is refused as stale (kFailedPrecondition). For one
  // caller, when no worker has a call under way. kFailedPrecondition: this store has started calls
  // that are not finished; or a shard has an unfinished step, or neither this store's version nor
  // `version`. After an error some shards may have switched, and this store has not: the same call
  // may come again, and finds those done. (Or all go back: UseCodebook(version), and
  // SwitchCodebook of the one before.) Back to a version is safe if nothing of it was refused as
  // stale meanwhile: a shard does not remember what it refused, and would serve a late copy. Where
  // that cannot be said a new incarnation of the run goes back.
  [[nodiscard]] absl::Status SwitchCodebook(uint32_t version, Deadline deadline);
  // Says so in all requests from now on; for who has heard that the shards have switched. Waits for
  // the call whose turn it is. Of calls that were started and not finished some may become stale.
  void UseCodebook(uint32_t version);
  uint32_t codebook_version() const { return codebook_version_.load(); }

  // Both wait only where a shard has max_in_flight requests unanswered (back-pressure).
  [[nodiscard]] absl::StatusOr<Ticket> StartPull(int64_t step, std::span<const TablePull> pulls,
                                                 Deadline deadline) override;
  [[nodiscard]] absl::StatusOr<Ticket> StartPush(int64_t step, std::span<const TablePush> pushes,
                                                 Deadline deadline) override;
  [[nodiscard]] absl::Status Finish(Ticket ticket) override;

 private:
  using HeldTurn = std::unique_lock<Turn>;

  RemoteStore(Context* context, RemoteStoreOptions options);

  // Takes a turn; kDeadlineExceeded if it does not come.
  [[nodiscard]] absl::Status TakeTurn(Deadline deadline, HeldTurn* turn);
  [[nodiscard]] absl::StatusOr<std::unique_ptr<RemoteCall>> MakePull(
      int64_t step, std::span<const TablePull> pulls, Deadline deadline) const;
  [[nodiscard]] absl::StatusOr<std::unique_ptr<RemoteCall>> MakePush(
      int64_t step, std::span<const TablePush> pushes, Deadline deadline) const;
  // A call from start to end.
  [[nodiscard]] absl::Status Run(RemoteCall* call);
  [[nodiscard]] absl::StatusOr<Ticket> Start(std::unique_ptr<RemoteCall> call);

  // The rest: with the turn taken.
  // Sends the call's messages.
  [[nodiscard]] absl::Status Send(RemoteCall* call);
  // Waits for the call's replies.
  [[nodiscard]] absl::Status Await(RemoteCall* call);
  // Receives, and repeats what is due, until done() or the deadline.
  template <typename Done>
  bool PumpUntil(Done done, Deadline deadline);
  bool ReceiveAll();
  void Accept(ShardLink::Request answered, const Frame& reply, ShardLink* link);
  // Gives the call up: late replies are dropped.
  absl::Status GiveUp(RemoteCall* call);
  void SendCancellation();
  MessageHeader Header() const;

  Context* const context_;
  const RemoteStoreOptions options_;
  const std::vector<uint32_t> bucket_map_;
  const MessagePlan plan_;
  const uint64_t client_;
  std::atomic<uint32_t> codebook_version_;  // written with the turn taken

  Turn turn_;
  // Guarded by turn_.
  std::deque<ShardLink> links_;  // they do not move
  std::unordered_map<uint64_t, std::unique_ptr<RemoteCall>> started_;
  uint64_t next_ticket_ = 1;
  Reply reply_;           // kept for the next one
  std::vector<int> fds_;  // likewise

  // The lowest step of cancellations not sent yet; INT64_MAX: none.
  std::atomic<int64_t> cancel_from_;
};

}  // namespace savior
