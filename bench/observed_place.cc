#include "bench/observed_place.h"

#include <map>
#include <optional>
#include <utility>

#include "bench/harness.h"

namespace savior {
namespace {

class ObservedStore final : public EmbeddingStore {
 public:
  ObservedStore(EmbeddingStore* store, Observations* observations)
      : store_(store), observations_(observations) {}

  const std::vector<TableSpec>& tables() const override { return store_->tables(); }
  absl::Status Pull(std::span<const TablePull> pulls, Deadline deadline) override {
    return store_->Pull(pulls, deadline);
  }
  absl::Status Push(int64_t step, std::span<const TablePush> pushes, Deadline deadline) override {
    return store_->Push(step, pushes, deadline);
  }
  absl::Status Put(std::span<const TablePut> puts, Deadline deadline) override {
    return store_->Put(puts, deadline);
  }
  absl::Status ReadRows(std::span<const TableRead> reads, Deadline deadline) override {
    return store_->ReadRows(reads, deadline);
  }
  absl::Status WriteRows(int64_t step, std::span<const TableWrite> writes,
                         Deadline deadline) override {
    return store_->WriteRows(step, writes, deadline);
  }
  absl::Status Hint(int64_t step, std::span<const TableKeys> keys) override {
    return store_->Hint(step, keys);
  }
  absl::Status CancelHints(int64_t from_step) override { return store_->CancelHints(from_step); }
  absl::StatusOr<StoreStats> Stats(Deadline deadline) override { return store_->Stats(deadline); }

  absl::StatusOr<Ticket> StartPull(int64_t step, std::span<const TablePull> pulls,
                                   Deadline deadline) override {
    return Start(CallKind::kPull, step, [&] { return store_->StartPull(step, pulls, deadline); });
  }
  absl::StatusOr<Ticket> StartPush(int64_t step, std::span<const TablePush> pushes,
                                   Deadline deadline) override {
    return Start(CallKind::kPush, step, [&] { return store_->StartPush(step, pushes, deadline); });
  }
  absl::Status Finish(Ticket ticket) override {
    UnderWay call = std::move(under_way_.at(ticket.number));
    under_way_.erase(ticket.number);
    if (!call.ticket) return absl::OkStatus();
    const double cpu = ThreadCpuSeconds();
    call.observed.finish_begin = NowSeconds();
    const absl::Status status = store_->Finish(*call.ticket);
    call.observed.finish_end = NowSeconds();
    call.observed.cpu += ThreadCpuSeconds() - cpu;
    observations_->calls.push_back(call.observed);
    return status;
  }

 private:
  struct UnderWay {
    ObservedCall observed;
    std::optional<Ticket> ticket;  // the store's; none: finished already
  };

  template <typename F>
  absl::StatusOr<Ticket> Start(CallKind kind, int64_t step, const F& start) {
    UnderWay call{.observed = {.kind = kind, .step = step}, .ticket = std::nullopt};
    const double cpu = ThreadCpuSeconds();
    call.observed.start_begin = NowSeconds();
    SAVIOR_ASSIGN_OR_RETURN(call.ticket, start());
    if (IsSerial(step)) {
      SAVIOR_RETURN_IF_ERROR(store_->Finish(*call.ticket));
      call.ticket.reset();
    }
    call.observed.start_end = NowSeconds();
    call.observed.cpu = ThreadCpuSeconds() - cpu;
    if (!call.ticket) {
      call.observed.finish_begin = call.observed.finish_end = call.observed.start_end;
      observations_->calls.push_back(call.observed);
    }
    under_way_.emplace(next_, std::move(call));
    return Ticket{next_++};
  }

  EmbeddingStore* const store_;
  Observations* const observations_;
  std::map<uint64_t, UnderWay> under_way_;
  uint64_t next_ = 1;
};

class ObservedRunStore final : public RunStore {
 public:
  ObservedRunStore(std::unique_ptr<RunStore> inner, Observations* observations)
      : inner_(std::move(inner)), store_(&inner_->store(), observations) {}

  EmbeddingStore& store() override { return store_; }
  EmbeddingStore& background() override { return inner_->background(); }
  absl::Status SwitchCodebook(uint32_t version, Deadline deadline) override {
    return inner_->SwitchCodebook(version, deadline);
  }
  void UseCodebook(uint32_t version) override { inner_->UseCodebook(version); }
  uint32_t shards() const override { return inner_->shards(); }
  std::string ServerOf(uint32_t shard) const override { return inner_->ServerOf(shard); }
  absl::Status Freeze(const CheckpointPlace& place, int64_t steps, Deadline deadline) override {
    return inner_->Freeze(place, steps, deadline);
  }
  absl::StatusOr<bool> CheckpointWritten(int64_t steps, Deadline deadline) override {
    return inner_->CheckpointWritten(steps, deadline);
  }

 private:
  const std::unique_ptr<RunStore> inner_;
  ObservedStore store_;
};

class ObservedAllreduce final : public Allreduce {
 public:
  ObservedAllreduce(Allreduce* inner, Observations* observations)
      : inner_(inner), observations_(observations) {}

  uint32_t rank() const override { return inner_->rank(); }
  uint32_t size() const override { return inner_->size(); }
  void Start(std::span<float> values) override { inner_->Start(values); }
  absl::Status Finish(Deadline deadline) override {
    observations_->allreduce_begin.push_back(NowSeconds());
    const absl::Status status = inner_->Finish(deadline);
    observations_->allreduce_end.push_back(NowSeconds());
    return status;
  }

 private:
  Allreduce* const inner_;
  Observations* const observations_;
};

class ObservedPlace final : public RunPlace {
 public:
  ObservedPlace(RunPlace* inner, Observations* observations)
      : inner_(inner), observations_(observations), allreduce_(&inner->allreduce(), observations) {}

  Group& workers() override { return inner_->workers(); }
  Allreduce& allreduce() override { return allreduce_; }
  std::string device() const override { return inner_->device(); }
  int64_t local_worker() const override { return inner_->local_worker(); }
  absl::StatusOr<RunStart> Agree(std::optional<RunStart> mine) override {
    return inner_->Agree(std::move(mine));
  }
  absl::StatusOr<std::unique_ptr<RunStore>> OpenStore(const RunStart& start) override {
    SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<RunStore> store, inner_->OpenStore(start));
    return std::make_unique<ObservedRunStore>(std::move(store), observations_);
  }

 private:
  RunPlace* const inner_;
  Observations* const observations_;
  ObservedAllreduce allreduce_;
};

}  // namespace

std::unique_ptr<RunPlace> Observe(RunPlace* place, Observations* observations) {
  return std::make_unique<ObservedPlace>(place, observations);
}

}  // namespace savior
