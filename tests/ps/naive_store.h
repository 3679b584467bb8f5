// The model that stores are compared with: a map per table, one thread, no tiers. Shares only the
// per-row functions with the real thing (optimizer, initial row, float16), which have tests of
// their own.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "common/half.h"
#include "common/store.h"
#include "ps/initial_row.h"
#include "ps/optimizer.h"

namespace savior {

class NaiveStore {
 public:
  struct Row {
    std::vector<float> weights;
    std::vector<float> state;
    uint32_t updates = 0;
    int64_t last_step = 0;
    bool operator==(const Row&) const = default;
  };

  NaiveStore(std::vector<TableSpec> tables, uint64_t seed)
      : tables_(std::move(tables)), seed_(seed), rows_(tables_.size()) {}

  // The row, or what is read in place of a missing one.
  Row Read(uint32_t table, uint64_t key) const {
    const auto found = rows_[table].find(key);
    return found != rows_[table].end() ? found->second : Initial(table, key);
  }

  void Push(int64_t step, uint32_t table, uint64_t key, const float* grad) {
    Row& row = rows_[table].try_emplace(key, Initial(table, key)).first->second;
    row.updates += 1;
    row.last_step = step;
    ApplyGradient(tables_[table].optimizer, tables_[table].dim, row.updates, grad,
                  row.weights.data(), row.state.data());
  }

  void Put(uint32_t table, uint64_t key, const float* values) {
    Row& row = rows_[table].try_emplace(key, Initial(table, key)).first->second;
    row.updates += 1;
    for (uint32_t d = 0; d < tables_[table].dim; ++d) {
      row.weights[d] =
          tables_[table].dtype == StoreDtype::kFloat16 ? FloatOfHalf(HalfOf(values[d])) : values[d];
    }
  }

  const std::map<uint64_t, Row>& rows(uint32_t table) const { return rows_[table]; }

 private:
  Row Initial(uint32_t table, uint64_t key) const {
    const TableSpec& spec = tables_[table];
    Row row{.weights = std::vector<float>(spec.dim),
            .state = std::vector<float>(StateFloats(spec.optimizer.kind, spec.dim))};
    InitialRow(spec, seed_).Write(key, row.weights.data());
    StartState(spec.optimizer, spec.dim, row.weights.data(), row.state.data());
    return row;
  }

  const std::vector<TableSpec> tables_;
  const uint64_t seed_;
  std::vector<std::map<uint64_t, Row>> rows_;  // [tables]
};

}  // namespace savior
