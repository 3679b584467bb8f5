// What a learned table admits, forgets and rounds, as one part of a table in one shard.
//
// The table asks here whether a row that it has is forgotten (then it reads as missing, and a push
// makes a new one in its place), and whether a key without a row gets one; and it tells of every
// push. The rules' own state is part of a checkpoint, as notes of the cold store:
//
//   eviction.<table>             ps/eviction.h; empty: none
//   admission.<table>.<bucket>   ps/admission.h; empty: none
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "common/store.h"
#include "ps/admission.h"
#include "ps/cold_store.h"
#include "ps/eviction.h"
#include "ps/row.h"

namespace savior {

struct RulesOptions {
  uint32_t shards = 1;             // that share the table: each keeps its part of the bounds
  double steps_per_minute = 1000;  // the rules' clock: a minute is this many steps
};

// Single-threaded.
class TableRules {
 public:
  // As table `number`; spec is valid. Rounding and admission draw from (seed, table's name).
  TableRules(const TableSpec& spec, uint32_t number, uint64_t seed, const RulesOptions& options);

  // A push of `step` begins. Returns the step that its rows are of: rules never look back, so a
  // late push counts as of the newest step.
  int64_t Begin(int64_t step);

  bool forget() const { return eviction_.has_value(); }
  bool Forgotten(uint64_t key, const RowRef& row) const {
    return eviction_.has_value() &&
           eviction_->Expired(key, row.head.last_step, eviction_->IsLow(WeightsOf(row)));
  }
  bool Admit(uint64_t key, int64_t step) { return admission_.Admit(key, step); }

  // Of a row before a push, for Pushed.
  struct Before {
    int64_t last_step = 0;
    bool low = false;
  };
  Before BeforePush(const RowRef& row) const {
    if (!eviction_.has_value()) return {};
    return {row.head.last_step, eviction_->IsLow(WeightsOf(row))};
  }
  // The row has been pushed: rounds it, and counts it. `before`: none for a new row.
  void Pushed(uint64_t key, const RowRef& row, const std::optional<Before>& before);

  // Rows that are not forgotten; only if forget().
  uint64_t live() const { return eviction_->live(); }
  uint64_t admitted() const { return admission_.admitted(); }
  uint64_t refused() const { return admission_.refused(); }
  uint64_t evicted() const { return eviction_.has_value() ? eviction_->evicted() : 0; }
  // RAM of the state.
  uint64_t bytes() const { return admission_.bytes() + (eviction_ ? eviction_->bytes() : 0); }

  // The state as it is now, to be written later by whatever thread.
  struct Saved {
    std::string table;
    std::string eviction;  // empty: none
    std::vector<Admission::SavedBucket> admission;
  };
  Saved Save() const;
  [[nodiscard]] static absl::Status Write(const Saved& saved, ColdStore* cold);

  // What a saved state says of rows that are read anew, by others than who wrote it.
  struct SavedEviction {
    std::optional<Eviction> eviction;
    bool Forgotten(uint64_t key, const RowRef& row, uint32_t dim) const {
      return eviction.has_value() &&
             eviction->Expired(key, row.head.last_step, eviction->IsLow({row.weights, dim}));
    }
  };
  [[nodiscard]] static absl::StatusOr<SavedEviction> ReadEviction(const ColdStore& cold,
                                                                  const std::string& table);
  // Takes over what `cold` has. False: the rules have changed, so all rows have to be read and the
  // forgotten ones (by ReadEviction) deleted, the others told of by Found.
  [[nodiscard]] absl::StatusOr<bool> Load(const ColdStore& cold);
  void Found(uint64_t key, const RowRef& row);

  // Calls `note`(name, bytes, bucket) for the admission's notes that `cold` has of `table`.
  [[nodiscard]] static absl::Status ForEachAdmissionNote(
      const ColdStore& cold, const std::string& table,
      absl::FunctionRef<absl::Status(const std::string&, const std::string&, uint32_t)> note);

 private:
  std::span<const float> WeightsOf(const RowRef& row) const { return {row.weights, spec_.dim}; }

  const TableSpec spec_;
  const uint64_t rounding_seed_;
  const double steps_per_minute_;
  Admission admission_;
  std::optional<Eviction> eviction_;
};

}  // namespace savior
