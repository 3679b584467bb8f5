// The model that stores are compared with: a map per table, one thread, no tiers. Shares with the
// real thing only what has tests of its own: functions of a row (optimizer, initial row, rounding)
// and the rules (admission, eviction), here of a table in one shard.
#pragma once

#include <cmath>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "common/initial_row.h"
#include "common/store.h"
#include "ps/optimizer.h"
#include "ps/rounding.h"
#include "ps/row.h"
#include "ps/table.h"
#include "ps/table_rules.h"

namespace savior {

class NaiveStore {
 public:
  struct Row {
    std::vector<float> weights;
    std::vector<float> state;
    RowHead head;

    // As ReadRows gives it.
    std::vector<float> Whole() const {
      std::vector<float> whole = weights;
      whole.insert(whole.end(), state.begin(), state.end());
      return whole;
    }

    static Row Of(const StoredRow& row) {
      return {.weights = {row.weights.begin(), row.weights.end()},
              .state = {row.state.begin(), row.state.end()},
              .head = {row.updates, static_cast<uint32_t>(row.last_step)}};
    }
    bool operator==(const Row& other) const {
      return weights == other.weights && state == other.state &&
             head.updates == other.head.updates && head.last_step == other.head.last_step;
    }
  };

  NaiveStore(std::vector<TableSpec> tables, uint64_t seed, double steps_per_minute = 1000)
      : tables_(std::move(tables)), seed_(seed), rows_(tables_.size()) {
    for (uint32_t t = 0; t < tables_.size(); ++t) {
      rules_.emplace_back(tables_[t], t, seed, RulesOptions{.steps_per_minute = steps_per_minute});
    }
  }

  // The row, or what is read in place of a missing one.
  Row Read(uint32_t table, uint64_t key) {
    Row* const row = Find(table, key);
    return row != nullptr ? *row : Initial(table, key);
  }

  // A push of `step` begins.
  void Begin(int64_t step) {
    for (TableRules& rules : rules_) rules.Begin(step);
  }

  void Push(int64_t step, uint32_t table, uint64_t key, const float* grad) {
    const TableSpec& spec = tables_[table];
    TableRules& rules = rules_[table];
    const int64_t as_of = rules.Begin(step);
    for (uint32_t d = 0; d < spec.dim; ++d) {
      if (!std::isfinite(grad[d])) return;  // of a table that skips them
    }
    Row* row = Find(table, key);
    std::optional<TableRules::Before> before;
    if (row != nullptr) {
      before = rules.BeforePush(RefOf(row));
    } else {
      if (!rules.Admit(key, step)) return;
      row = &(rows_[table][key] = Initial(table, key));
    }
    row->head.updates += 1;
    row->head.last_step = static_cast<uint32_t>(as_of);
    ApplyGradient(spec.optimizer, spec.dim, row->head.updates, grad, row->weights.data(),
                  row->state.data());
    rules.Pushed(key, RefOf(row), before);
  }

  void Put(uint32_t table, uint64_t key, const float* values) {
    Row& row = rows_[table].try_emplace(key, Initial(table, key)).first->second;
    row.head.updates += 1;
    row.weights.assign(values, values + tables_[table].dim);
    RoundToNearest(tables_[table].dtype, row.weights);
  }

  // row: [RowFloats].
  void Write(int64_t step, uint32_t table, uint64_t key, const float* row, uint32_t updates) {
    const uint32_t dim = tables_[table].dim;
    TableRules& rules = rules_[table];
    const int64_t as_of = rules.Begin(step);
    Row* const old = Find(table, key);
    std::optional<TableRules::Before> before;
    if (old != nullptr) before = rules.BeforePush(RefOf(old));
    Row& now = rows_[table][key];
    now.weights.assign(row, row + dim);
    now.state.assign(row + dim, row + RowFloats(tables_[table]));
    now.head = {updates, static_cast<uint32_t>(as_of)};
    rules.Pushed(key, RefOf(&now), before);
  }

  // Rows that are not forgotten.
  size_t Count(uint32_t table) {
    size_t count = 0;
    for (const auto& [key, row] : rows_[table]) count += Find(table, key) != nullptr;
    return count;
  }
  const std::map<uint64_t, Row>& rows(uint32_t table) const { return rows_[table]; }

 private:
  static RowRef RefOf(Row* row) { return {row->head, row->weights.data(), row->state.data()}; }

  // Null: missing or forgotten.
  Row* Find(uint32_t table, uint64_t key) {
    const auto found = rows_[table].find(key);
    if (found == rows_[table].end()) return nullptr;
    return rules_[table].Forgotten(key, RefOf(&found->second)) ? nullptr : &found->second;
  }

  Row Initial(uint32_t table, uint64_t key) const {
    const TableSpec& spec = tables_[table];
    Row row{.weights = std::vector<float>(spec.dim),
            .state = std::vector<float>(StateFloats(spec.optimizer.kind, spec.dim)),
            .head = {}};
    InitialRow(spec, seed_).Write(key, row.weights.data());
    StartState(spec.optimizer, spec.dim, row.weights.data(), row.state.data());
    return row;
  }

  const std::vector<TableSpec> tables_;
  const uint64_t seed_;
  std::vector<std::map<uint64_t, Row>> rows_;  // [tables], forgotten ones included
  std::deque<TableRules> rules_;               // [tables]
};

}  // namespace savior
