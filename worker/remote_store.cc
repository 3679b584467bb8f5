#include "worker/remote_store.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "common/routing.h"
#include "common/sequence.h"
#include "common/store_checks.h"
#include "common/unique_number.h"

namespace savior {
namespace {

constexpr int64_t kNoCancel = std::numeric_limits<int64_t>::max();
// Until a shard that has no room, on disk or for requests that wait, is asked again.
constexpr std::chrono::milliseconds kAgainWhenFull{50};
constexpr size_t kLeastMessageBytes = 4096;
constexpr size_t kMaxShards = kBuckets;

std::string NameOf(MessageType type) {
  switch (type) {
    case MessageType::kPull:
      return "pull";
    case MessageType::kPush:
      return "push";
    case MessageType::kPut:
      return "put";
    case MessageType::kCheckpoint:
      return "checkpoint";
    case MessageType::kCheckpointWritten:
      return "look at a checkpoint";
    case MessageType::kReadRows:
      return "read";
    case MessageType::kWriteRows:
      return "write";
    case MessageType::kSwitchCodebook:
      return "switch of the codebook's version";
    default:
      return "stats";
  }
}

absl::Status CheckOptions(const RemoteStoreOptions& options) {
  const auto check = [](bool ok, const std::string& rule) {
    return ok ? absl::OkStatus() : absl::InvalidArgumentError("remote store: " + rule);
  };
  SAVIOR_RETURN_IF_ERROR(check(!options.endpoints.empty() && options.endpoints.size() <= kMaxShards,
                               "1 to 4096 endpoints, one per shard"));
  SAVIOR_RETURN_IF_ERROR(
      check(options.max_in_flight >= 1 && options.max_in_flight <= kSequenceWindow,
            absl::StrCat("max_in_flight must be 1 to ", kSequenceWindow)));
  SAVIOR_RETURN_IF_ERROR(
      check(options.server_keys.empty() || options.server_keys.size() == options.endpoints.size(),
            "one server key per endpoint, or none"));
  SAVIOR_RETURN_IF_ERROR(check(options.retry_after.count() > 0, "retry_after must be positive"));
  return check(
      options.message_bytes >= kLeastMessageBytes && options.message_bytes <= kMaxFrameBytes / 2,
      absl::StrCat("message_bytes must be ", kLeastMessageBytes, " to ", kMaxFrameBytes / 2));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteStore>> RemoteStore::Connect(Context* context,
                                                                  RemoteStoreOptions options) {
  SAVIOR_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<RemoteStore> store(new RemoteStore(context, std::move(options)));
  const RemoteStoreOptions& o = store->options_;
  for (uint32_t s = 0; s < o.endpoints.size(); ++s) {
    SocketSecurity security = o.security;
    if (!o.server_keys.empty()) security.server_key = o.server_keys[s];
    absl::StatusOr<std::unique_ptr<DealerSocket>> socket =
        DealerSocket::Connect(context, o.endpoints[s], security);
    SAVIOR_RETURN_IF_ERROR(Annotate(socket.status(), absl::StrCat("shard ", s)));
    store->links_.emplace_back(s, *std::move(socket), o.max_in_flight, o.retry_after);
  }
  return store;
}

RemoteStore::RemoteStore(Context* context, RemoteStoreOptions options)
    : context_(context),
      options_(std::move(options)),
      bucket_map_(EvenBucketMap(static_cast<uint32_t>(options_.endpoints.size()))),
      plan_{.tables = options_.tables,
            .bucket_map = bucket_map_,
            .shards = static_cast<uint32_t>(options_.endpoints.size()),
            .dtype = options_.wire_dtype,
            .clocked = options_.clocked,
            .message_bytes = options_.message_bytes},
      client_(DrawUniqueNumber()),
      codebook_version_(options_.codebook_version),
      cancel_from_(kNoCancel) {}

RemoteStore::~RemoteStore() = default;

absl::Status RemoteStore::TakeTurn(Deadline deadline, HeldTurn* turn) {
  *turn = HeldTurn(turn_, std::defer_lock);
  if (SteadyClock::now() >= deadline || !turn->try_lock_until(deadline)) {
    return absl::DeadlineExceededError("no turn at the remote store before the deadline");
  }
  SendCancellation();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RemoteCall>> RemoteStore::MakePull(int64_t step,
                                                                  std::span<const TablePull> pulls,
                                                                  Deadline deadline) const {
  auto call = std::make_unique<RemoteCall>();
  call->type = MessageType::kPull;
  call->step = step;
  call->deadline = deadline;
  call->pulls.assign(pulls.begin(), pulls.end());
  for (const TablePull& pull : pulls) {
    SAVIOR_RETURN_IF_ERROR(CheckPull(options_.tables, pull));
    call->requests.push_back({pull.table, pull.keys});
  }
  call->Divide(plan_);
  return call;
}

absl::StatusOr<std::unique_ptr<RemoteCall>> RemoteStore::MakePush(int64_t step,
                                                                  std::span<const TablePush> pushes,
                                                                  Deadline deadline) const {
  SAVIOR_RETURN_IF_ERROR(CheckStep(step));
  auto call = std::make_unique<RemoteCall>();
  call->type = MessageType::kPush;
  call->step = step;
  call->deadline = deadline;
  for (const TablePush& push : pushes) {
    // The shards check, too; but one of them would apply its part before another refuses its own.
    SAVIOR_RETURN_IF_ERROR(CheckPush(options_.tables, push));
    call->requests.push_back({push.table, push.keys});
    call->values.push_back(push.grads);
  }
  call->Divide(plan_);
  constexpr size_t kMostParts = std::numeric_limits<uint16_t>::max();  // in a header
  if (call->messages.size() > kMostParts) {
    return absl::InvalidArgumentError(absl::StrCat("a push of ", call->keys(), " keys takes ",
                                                   call->messages.size(), " messages: more than ",
                                                   kMostParts, "; raise message_bytes"));
  }
  return call;
}

absl::Status RemoteStore::Pull(std::span<const TablePull> pulls, Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(const std::unique_ptr<RemoteCall> call,
                          MakePull(kAnyStep, pulls, deadline));
  return Run(call.get());
}

absl::Status RemoteStore::Push(int64_t step, std::span<const TablePush> pushes, Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(const std::unique_ptr<RemoteCall> call, MakePush(step, pushes, deadline));
  return Run(call.get());
}

absl::Status RemoteStore::Put(std::span<const TablePut> puts, Deadline deadline) {
  RemoteCall call;
  call.type = MessageType::kPut;
  call.deadline = deadline;
  for (const TablePut& put : puts) {
    SAVIOR_RETURN_IF_ERROR(CheckPut(options_.tables, put));
    call.requests.push_back({put.table, put.keys});
    call.values.push_back(put.rows);
  }
  call.Divide(plan_);
  return Run(&call);
}

absl::Status RemoteStore::ReadRows(std::span<const TableRead> reads, Deadline deadline) {
  RemoteCall call;
  call.type = MessageType::kReadRows;
  call.step = kAnyStep;
  call.deadline = deadline;
  for (const TableRead& read : reads) {
    SAVIOR_RETURN_IF_ERROR(CheckRead(options_.tables, read));
    call.requests.push_back({read.table, read.keys});
    call.pulls.push_back({read.table, read.keys, read.rows, read.updates});
  }
  SAVIOR_RETURN_IF_ERROR(CheckUnique(options_.tables, call.requests));
  call.Divide(plan_);
  return Run(&call);
}

absl::Status RemoteStore::WriteRows(int64_t step, std::span<const TableWrite> writes,
                                    Deadline deadline) {
  SAVIOR_RETURN_IF_ERROR(CheckStep(step));
  RemoteCall call;
  call.type = MessageType::kWriteRows;
  call.step = step;
  call.deadline = deadline;
  for (const TableWrite& write : writes) {
    SAVIOR_RETURN_IF_ERROR(CheckWrite(options_.tables, write));
    call.requests.push_back({write.table, write.keys});
    call.values.push_back(write.rows);
    call.updates.push_back(write.updates);
  }
  SAVIOR_RETURN_IF_ERROR(CheckUnique(options_.tables, call.requests));
  call.Divide(plan_);
  return Run(&call);
}

absl::Status RemoteStore::SwitchCodebook(uint32_t version, Deadline deadline) {
  RemoteCall call;
  call.type = MessageType::kSwitchCodebook;
  call.step = version;
  call.deadline = deadline;
  call.ToEveryShard(plan_.shards);
  HeldTurn turn;
  SAVIOR_RETURN_IF_ERROR(TakeTurn(deadline, &turn));
  if (!started_.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("a switch to codebook version ", version,
                                                      " while ", started_.size(),
                                                      " calls are under way: finish them before"));
  }
  SAVIOR_RETURN_IF_ERROR(Send(&call));
  SAVIOR_RETURN_IF_ERROR(Await(&call));
  codebook_version_ = version;
  return absl::OkStatus();
}

void RemoteStore::UseCodebook(uint32_t version) {
  const HeldTurn turn(turn_);
  codebook_version_ = version;
}

absl::Status RemoteStore::Hint(int64_t step, std::span<const TableKeys> keys) {
  RemoteCall call;
  call.type = MessageType::kHint;
  call.step = step;
  for (const TableKeys& request : keys) {
    SAVIOR_RETURN_IF_ERROR(CheckTable(options_.tables, request.table));
    call.requests.push_back(request);
  }
  call.Divide(plan_);
  const HeldTurn turn(turn_, std::try_to_lock);
  if (!turn.owns_lock()) return absl::OkStatus();
  SendCancellation();
  for (size_t m = 0; m < call.messages.size(); ++m) {
    links_[call.messages[m].shard].SendOnce(call.Encode(m, Header(), plan_, context_));
  }
  return absl::OkStatus();
}

absl::Status RemoteStore::CancelHints(int64_t from_step) {
  int64_t before = cancel_from_.load();
  while (from_step < before && !cancel_from_.compare_exchange_weak(before, from_step)) {
  }
  const HeldTurn turn(turn_, std::try_to_lock);
  if (turn.owns_lock()) SendCancellation();
  return absl::OkStatus();
}

absl::Status RemoteStore::Freeze(int64_t steps, Deadline deadline) {
  RemoteCall call;
  call.type = MessageType::kCheckpoint;
  call.step = steps;
  call.deadline = deadline;
  call.ToEveryShard(plan_.shards);
  return Run(&call);
}

absl::StatusOr<bool> RemoteStore::CheckpointWritten(int64_t steps, Deadline deadline) {
  RemoteCall call;
  call.type = MessageType::kCheckpointWritten;
  call.step = steps;
  call.deadline = deadline;
  call.ToEveryShard(plan_.shards);
  const absl::Status status = Run(&call);
  if (!call.waiting.ok() && !absl::IsDeadlineExceeded(status)) return false;
  SAVIOR_RETURN_IF_ERROR(status);
  return true;
}

absl::StatusOr<StoreStats> RemoteStore::Stats(Deadline deadline) {
  RemoteCall call;
  call.type = MessageType::kStats;
  call.deadline = deadline;
  for (const TableSpec& table : options_.tables) call.stats.tables.emplace_back().name = table.name;
  call.ToEveryShard(plan_.shards);
  HeldTurn turn;
  SAVIOR_RETURN_IF_ERROR(TakeTurn(deadline, &turn));
  SAVIOR_RETURN_IF_ERROR(Send(&call));
  SAVIOR_RETURN_IF_ERROR(Await(&call));
  for (const ShardLink& link : links_) {
    call.stats.network.bytes_sent += link.bytes_sent();
    call.stats.network.bytes_received += link.bytes_received();
  }
  return std::move(call.stats);
}

absl::StatusOr<Ticket> RemoteStore::StartPull(int64_t step, std::span<const TablePull> pulls,
                                              Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<RemoteCall> call, MakePull(step, pulls, deadline));
  return Start(std::move(call));
}

absl::StatusOr<Ticket> RemoteStore::StartPush(int64_t step, std::span<const TablePush> pushes,
                                              Deadline deadline) {
  SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<RemoteCall> call, MakePush(step, pushes, deadline));
  return Start(std::move(call));
}

absl::StatusOr<Ticket> RemoteStore::Start(std::unique_ptr<RemoteCall> call) {
  HeldTurn turn;
  SAVIOR_RETURN_IF_ERROR(TakeTurn(call->deadline, &turn));
  SAVIOR_RETURN_IF_ERROR(Send(call.get()));
  const Ticket ticket{next_ticket_++};
  started_.emplace(ticket.number, std::move(call));
  return ticket;
}

absl::Status RemoteStore::Finish(Ticket ticket) {
  // Without a deadline of its own: until here the caller's spans may be written to.
  const HeldTurn turn(turn_);
  SendCancellation();
  const auto found = started_.find(ticket.number);
  if (found == started_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("no call has ticket ", ticket.number));
  }
  const std::unique_ptr<RemoteCall> call = std::move(found->second);
  started_.erase(found);
  return Await(call.get());
}

absl::Status RemoteStore::Run(RemoteCall* call) {
  HeldTurn turn;
  SAVIOR_RETURN_IF_ERROR(TakeTurn(call->deadline, &turn));
  SAVIOR_RETURN_IF_ERROR(Send(call));
  return Await(call);
}

absl::Status RemoteStore::Send(RemoteCall* call) {
  for (size_t m = 0; m < call->messages.size(); ++m) {
    ShardLink& link = links_[call->messages[m].shard];
    const auto has_room = [&] { return link.HasRoom(); };
    if (!has_room() && !PumpUntil(has_room, call->deadline)) return GiveUp(call);
    MessageHeader header = Header();
    header.sequence = link.next_sequence();
    link.Send(call->Encode(m, header, plan_, context_), call, m);
  }
  return absl::OkStatus();
}

absl::Status RemoteStore::Await(RemoteCall* call) {
  const auto all = [&] { return call->answered == call->messages.size(); };
  if (!PumpUntil(all, call->deadline)) return GiveUp(call);
  return call->result;
}

template <typename Done>
bool RemoteStore::PumpUntil(Done done, Deadline deadline) {
  while (!done()) {
    if (ReceiveAll()) continue;
    const Deadline now = SteadyClock::now();
    if (now >= deadline) return false;
    Deadline wake = deadline;
    fds_.clear();
    for (ShardLink& link : links_) {
      if (link.idle()) continue;
      wake = std::min(wake, link.Repeat(now));
      fds_.push_back(link.fd());
    }
    // Sending may have taken a reply's signal: look again before waiting for it.
    if (ReceiveAll()) continue;
    WaitReadable(fds_, wake);
  }
  return true;
}

bool RemoteStore::ReceiveAll() {
  bool any = false;
  for (ShardLink& link : links_) {
    ShardLink::Request answered;
    Frame reply;
    while (!link.idle() && link.Receive(&answered, &reply)) {
      Accept(std::move(answered), reply, &link);
      any = true;
    }
  }
  return any;
}

void RemoteStore::Accept(ShardLink::Request answered, const Frame& reply, ShardLink* link) {
  RemoteCall& call = *answered.call;
  absl::Status status = DecodeReply(reply.bytes(), &reply_);
  if (status.ok()) status = call.Accept(answered.message, reply_);
  status = Annotate(status, status.ok() ? "" : link->Name());
  const bool checkpoint =
      call.type == MessageType::kCheckpoint || call.type == MessageType::kCheckpointWritten;
  if (absl::IsUnavailable(status) && call.type == MessageType::kCheckpointWritten) {
    // Still being written: the caller asks again, whatever others have said by now.
    call.waiting = std::exchange(status, absl::OkStatus());
  }
  if (absl::IsResourceExhausted(status) && !checkpoint) {
    // A full disk, or too much that waits: nothing has been applied. As a store in this process,
    // wait for room. A checkpoint does not: the caller may go on without it.
    call.waiting = std::move(status);
    link->AskAgain(std::move(answered), SteadyClock::now() + kAgainWhenFull);
    return;
  }
  ++call.answered;
  if (call.result.ok()) call.result = std::move(status);
}

absl::Status RemoteStore::GiveUp(RemoteCall* call) {
  std::string why;
  for (const ShardLink& link : links_) {
    if (why.empty()) why = link.DescribeUnanswered(call);
  }
  for (ShardLink& link : links_) link.Forget(call);
  if (!call->result.ok()) return call->result;
  if (!call->waiting.ok()) return call->waiting;
  if (why.empty()) why = "too many requests are unanswered";
  return absl::DeadlineExceededError(
      absl::StrCat(NameOf(call->type), " of ", call->keys(), " keys: ", why));
}

void RemoteStore::SendCancellation() {
  const int64_t from = cancel_from_.exchange(kNoCancel);
  if (from == kNoCancel) return;
  for (uint32_t s = 0; s < links_.size(); ++s) {
    RemoteCall cancel;
    cancel.type = MessageType::kCancelHints;
    cancel.step = from;
    cancel.messages.push_back({.shard = s, .slices = {}});
    links_[s].SendOnce(cancel.Encode(0, Header(), plan_, context_));
  }
}

MessageHeader RemoteStore::Header() const {
  return {.incarnation = options_.incarnation,
          .codebook_version = codebook_version_.load(),
          .worker = options_.worker,
          .client = client_};
}

}  // namespace savior
