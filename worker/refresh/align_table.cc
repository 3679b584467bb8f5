#include "worker/refresh/align_table.h"

#include <algorithm>
#include <span>
#include <utility>

#include "worker/tables.h"

namespace savior {
namespace {

std::vector<uint64_t> KeysOf(uint32_t version, size_t levels, size_t codes) {
  std::vector<uint64_t> keys;
  keys.reserve(levels * codes);
  for (size_t l = 0; l < levels; ++l) {
    for (size_t c = 0; c < codes; ++c) {
      keys.push_back(AlignKey(version, static_cast<uint32_t>(l), static_cast<uint32_t>(c)));
    }
  }
  return keys;
}

}  // namespace

absl::StatusOr<AlignTable> ReadAlignTable(EmbeddingStore& store, const Config& config,
                                          uint32_t version, Deadline deadline) {
  const TableSpec& spec = store.tables()[kAlignTable];
  AlignTable table;
  table.levels = static_cast<size_t>(config.codebook.levels);
  table.codes = static_cast<size_t>(config.codebook.codes);
  table.dim = spec.dim;
  const size_t floats = RowFloats(spec);
  table.state = floats - spec.dim;
  const std::vector<uint64_t> keys = KeysOf(version, table.levels, table.codes);
  std::vector<float> rows(keys.size() * floats);
  table.updates.resize(keys.size());
  const TableRead read = {kAlignTable, keys, rows, table.updates};
  SAVIOR_RETURN_IF_ERROR(store.ReadRows({&read, 1}, deadline));
  for (size_t r = 0; r < keys.size(); ++r) {
    const auto row = rows.begin() + static_cast<std::ptrdiff_t>(r * floats);
    const auto state = row + static_cast<std::ptrdiff_t>(table.dim);
    table.weights.insert(table.weights.end(), row, state);
    table.states.insert(table.states.end(), state, row + static_cast<std::ptrdiff_t>(floats));
  }
  return table;
}

absl::Status WriteAlignTable(EmbeddingStore& store, uint32_t version, int64_t step,
                             const AlignTable& table, Deadline deadline) {
  const std::vector<uint64_t> keys = KeysOf(version, table.levels, table.codes);
  std::vector<float> rows;
  rows.reserve(keys.size() * (table.dim + table.state));
  std::vector<uint32_t> updates;
  for (size_t r = 0; r < keys.size(); ++r) {
    const auto add = [&](const std::vector<float>& from, size_t width) {
      const auto begin = from.begin() + static_cast<std::ptrdiff_t>(r * width);
      rows.insert(rows.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
    };
    add(table.weights, table.dim);
    add(table.states, table.state);
    // A row that exists has been updated once at least.
    updates.push_back(std::max(table.updates[r], 1u));
  }
  const TableWrite write = {kAlignTable, keys, rows, updates};
  return store.WriteRows(step, {&write, 1}, deadline);
}

AlignTable Remapped(const AlignTable& before, const RemapShares& shares, const CodeJoint& joint,
                    OptimizerKind optimizer) {
  AlignTable now = before;
  now.weights = RemapRows(shares, before.weights, before.dim);
  now.states = RemapState(shares, optimizer, static_cast<uint32_t>(before.dim), before.states);
  now.updates = RemapCounts(joint, before.updates);
  return now;
}

AlignTable CarriedOver(const AlignTable& made, const AlignTable& from, const AlignTable& now,
                       const RemapShares& shares, const CodeJoint& joint, OptimizerKind optimizer) {
  AlignTable carried = Remapped(now, shares, joint, optimizer);
  const std::vector<float> then = RemapRows(shares, from.weights, from.dim);
  for (size_t i = 0; i < then.size(); ++i) {
    carried.weights[i] = made.weights[i] + (carried.weights[i] - then[i]);
  }
  return carried;
}

}  // namespace savior
