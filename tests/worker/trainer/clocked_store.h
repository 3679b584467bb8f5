// An embedding store in a map, shared by the workers of one process: SGD, steps and staleness as
// the servers keep them, and nothing else. Contents that nobody has put have codes, the same ones
// in both slots. For tests of the worker.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "common/store.h"
#include "worker/tables.h"

namespace savior {

// Thread-safe. The gradients of a step are applied when all workers have pushed them: summed in the
// order of the workers.
class ClockedStore {
 public:
  ClockedStore(const Config& config, uint32_t workers)
      : tables_(ModelTables(config)),
        levels_(static_cast<size_t>(config.codebook.levels)),
        codes_(static_cast<uint64_t>(config.codebook.codes)),
        dim_(static_cast<size_t>(config.encoder.dim)),
        staleness_(config.cluster.staleness),
        lr_(static_cast<float>(config.train.table_lr)),
        workers_(workers) {
    for (uint32_t w = 0; w < workers; ++w) ports_.push_back(std::make_unique<Port>(this, w));
  }

  // What worker `w` sees.
  EmbeddingStore& port(uint32_t w) { return *ports_[w]; }

  // Steps that all workers have pushed.
  int64_t applied() {
    const std::lock_guard lock(mutex_);
    return applied_;
  }
  // Pulls that were started, by step.
  std::vector<int64_t> pulled_steps(uint32_t w) {
    const std::lock_guard lock(mutex_);
    return ports_[w]->pulled_steps;
  }
  // The alignment rows of codebook version `from` under the keys of version `to`, too, and rows of
  // prefixes of the builds of the same numbers.
  void CopyAlignment(uint32_t from, uint32_t to) {
    const std::lock_guard lock(mutex_);
    const std::map<RowKey, Row> rows = rows_;
    for (const auto& [key, row] : rows) {
      if (key.first == kPrefixTable && IsOfBuild(key.second, from)) {
        rows_[{kPrefixTable, PrefixKey(to, 1, 0) | WithoutBuild(key.second)}] = row;
      }
      if (key.first != kAlignTable || SlotOfAlignKey(key.second) != CodebookSlot(from)) continue;
      rows_[{kAlignTable, AlignKey(to, 0, 0) | WithoutSlot(key.second)}] = row;
    }
  }
  // Tickets that nobody has finished.
  size_t unfinished() {
    const std::lock_guard lock(mutex_);
    size_t n = 0;
    for (const auto& port : ports_) n += port->tickets.size();
    return n;
  }
  std::map<std::pair<uint32_t, uint64_t>, std::vector<float>> learned() {
    const std::lock_guard lock(mutex_);
    std::map<std::pair<uint32_t, uint64_t>, std::vector<float>> rows;
    for (const auto& [key, row] : rows_) rows[key] = row.weights;
    return rows;
  }

 private:
  using RowKey = std::pair<uint32_t, uint64_t>;
  struct Row {
    std::vector<float> weights;
    uint32_t updates = 0;
  };
  struct Pending {
    int64_t step = kAnyStep;
    std::vector<TablePull> pulls;  // empty for a push
  };

  class Port final : public EmbeddingStore {
   public:
    Port(ClockedStore* store, uint32_t worker) : store_(store), worker_(worker) {}

    const std::vector<TableSpec>& tables() const override { return store_->tables_; }
    absl::Status Pull(std::span<const TablePull> pulls, Deadline) override {
      const std::lock_guard lock(store_->mutex_);
      store_->Read(pulls);
      return absl::OkStatus();
    }
    absl::Status Push(int64_t step, std::span<const TablePush> pushes, Deadline) override {
      store_->Take(worker_, step, pushes);
      return absl::OkStatus();
    }
    absl::StatusOr<Ticket> StartPull(int64_t step, std::span<const TablePull> pulls,
                                     Deadline) override {
      const std::lock_guard lock(store_->mutex_);
      pulled_steps.push_back(step);
      tickets[++last_] = {step, {pulls.begin(), pulls.end()}};
      return Ticket{last_};
    }
    absl::StatusOr<Ticket> StartPush(int64_t step, std::span<const TablePush> pushes,
                                     Deadline) override {
      store_->Take(worker_, step, pushes);
      const std::lock_guard lock(store_->mutex_);
      tickets[++last_] = {};
      return Ticket{last_};
    }
    absl::Status Finish(Ticket ticket) override {
      std::unique_lock lock(store_->mutex_);
      const auto found = tickets.find(ticket.number);
      if (found == tickets.end()) return absl::InternalError("a ticket was finished twice");
      const Pending pending = std::move(found->second);
      tickets.erase(found);
      const int64_t needed = store_->staleness_ < 0 ? 0 : pending.step - store_->staleness_;
      if (!store_->changed_.wait_for(lock, std::chrono::seconds(20),
                                     [&] { return store_->applied_ >= needed; })) {
        return absl::DeadlineExceededError("steps are missing");
      }
      store_->Read(pending.pulls);
      return absl::OkStatus();
    }
    absl::Status Put(std::span<const TablePut> puts, Deadline) override {
      const std::lock_guard lock(store_->mutex_);
      for (const TablePut& put : puts) {
        const size_t dim = store_->tables_[put.table].dim;
        for (size_t i = 0; i < put.keys.size(); ++i) {
          const auto row = put.rows.subspan(i * dim, dim);
          store_->rows_[{put.table, put.keys[i]}].weights = {row.begin(), row.end()};
        }
      }
      return absl::OkStatus();
    }
    absl::Status ReadRows(std::span<const TableRead>, Deadline) override { return NoWholeRows(); }
    absl::Status WriteRows(int64_t, std::span<const TableWrite>, Deadline) override {
      return NoWholeRows();
    }
    absl::Status Hint(int64_t, std::span<const TableKeys>) override { return absl::OkStatus(); }
    absl::Status CancelHints(int64_t) override { return absl::OkStatus(); }
    absl::StatusOr<StoreStats> Stats(Deadline) override { return StoreStats{}; }

    // Guarded by the store's mutex.
    std::map<uint64_t, Pending> tickets;
    std::vector<int64_t> pulled_steps;

   private:
    static absl::Status NoWholeRows() { return absl::UnimplementedError("rows have no state"); }

    ClockedStore* const store_;
    const uint32_t worker_;
    uint64_t last_ = 0;
  };

  std::vector<float> Initial(uint32_t table, uint64_t key) const {
    std::vector<float> row(tables_[table].dim, 0.0f);
    Random random(table, key);
    if (tables_[table].kind == TableKind::kAlign) return row;
    for (float& value : row) value = static_cast<float>(0.3 * random.Normal());
    for (size_t l = 0; table == kContentTable && l < levels_; ++l) {
      row[dim_ + l] = row[dim_ + levels_ + l] = static_cast<float>(random.Below(codes_));
    }
    return row;
  }

  void Read(std::span<const TablePull> pulls) {
    for (const TablePull& pull : pulls) {
      const size_t dim = tables_[pull.table].dim;
      for (size_t i = 0; i < pull.keys.size(); ++i) {
        const auto found = rows_.find({pull.table, pull.keys[i]});
        const bool missing = found == rows_.end();
        std::ranges::copy(missing ? Initial(pull.table, pull.keys[i]) : found->second.weights,
                          pull.rows.begin() + static_cast<int64_t>(i * dim));
        if (!pull.updates.empty()) pull.updates[i] = missing ? 0 : found->second.updates;
      }
    }
  }

  void Take(uint32_t worker, int64_t step, std::span<const TablePush> pushes) {
    const std::lock_guard lock(mutex_);
    auto& step_pushes = pushed_[step];
    auto& own = step_pushes[worker];
    for (const TablePush& push : pushes) {
      const size_t dim = tables_[push.table].dim;
      for (size_t i = 0; i < push.keys.size(); ++i) {
        const auto grad = push.grads.subspan(i * dim, dim);
        own.push_back({{push.table, push.keys[i]}, {grad.begin(), grad.end()}});
      }
    }
    while (!pushed_.empty() && pushed_.begin()->second.size() == workers_) {
      Apply(pushed_.begin()->second);
      applied_ = pushed_.begin()->first + 1;
      pushed_.erase(pushed_.begin());
    }
    changed_.notify_all();
  }

  using Gradients = std::vector<std::pair<RowKey, std::vector<float>>>;
  void Apply(const std::map<uint32_t, Gradients>& step) {
    std::map<RowKey, std::vector<float>> sums;
    for (const auto& [worker, gradients] : step) {
      for (const auto& [key, gradient] : gradients) {
        auto& sum = sums[key];
        sum.resize(gradient.size());
        for (size_t d = 0; d < gradient.size(); ++d) sum[d] += gradient[d];
      }
    }
    for (const auto& [key, sum] : sums) {
      Row& row = rows_[key];
      if (row.weights.empty()) row.weights = Initial(key.first, key.second);
      for (size_t d = 0; d < sum.size(); ++d) row.weights[d] -= lr_ * sum[d];
      ++row.updates;
    }
  }

  const std::vector<TableSpec> tables_;
  const size_t levels_;
  const uint64_t codes_;
  const size_t dim_;
  const int64_t staleness_;
  const float lr_;
  const uint32_t workers_;
  std::vector<std::unique_ptr<Port>> ports_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  int64_t applied_ = 0;
  std::map<int64_t, std::map<uint32_t, Gradients>> pushed_;  // step -> worker -> gradients
  std::map<RowKey, Row> rows_;
};

}  // namespace savior
