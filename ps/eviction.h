// Which rows of a learned table are forgotten (EvictionSpec in common/store.h).
//
// A row is expired if it was last pushed before its horizon. There is a horizon, a step, for each
// of 256 slices of the keys, once for ordinary rows and once for those of low score (root mean
// square weight below min_score). So whether a row is expired follows from its key, its last step
// and its weights: it does not depend on which tier the row is in, nor on whether somebody has
// deleted it already. Horizons only go forward, and never beyond the present step: what is expired
// stays so, and a push makes a new row.
//
// Once a minute of the caller's clock the horizons go forward over the oldest cells of RowAges, one
// after the other, as far as the rules ask and the minute's share of the live rows allows:
//
//   idle      the older of the two classes' first cells, if all its steps are < step - idle_steps
//   score     the first cell of low rows, if all its steps are < step - score_idle_steps
//   capacity  the older of the two first cells, if there are more than capacity_rows live rows
//
// The first two leave at least floor_rows. A cell goes as a whole, and its rows are counted
// exactly. So in any minute at most max_share_per_minute of the live rows go, or one cell if a cell
// is more than that: then the minutes before it are saved up, and it goes alone. A clock that stood
// still or jumped allows one minute's share.
//
// What that costs: a row outlives a rule by up to a bin (1/128 of the ages of its class) and a
// minute. Memory: ps/row_ages.h, twice.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/random.h"
#include "common/status.h"
#include "common/store.h"
#include "ps/row_ages.h"

namespace savior {

// The eviction of one table in one shard. Single-threaded.
//
// Laws: Add, Touch and Advance are told of every live row once: a row that is expired is counted
// out already, and is never touched (a push of its key makes a new row). Rows are told of with
// steps
// >= step(): a push that comes late counts as of step(), which is then the row's last step.
//
// Several shards that must forget the same rows whatever their number share one that decides, built
// of the whole table's spec: at each minute it Recounts what the shards have, Advances, and they
// Follow. By itself a shard decides about its own rows, with its part of capacity_rows and
// floor_rows.
class Eviction {
 public:
  // First steps that are not expired, [low][slice].
  using Horizons = std::array<std::array<int64_t, RowAges::kSlices>, 2>;

  // spec: valid (ps/table_spec.h) and enabled. capacity_rows and floor_rows are of the rows told
  // of.
  explicit Eviction(const EvictionSpec& spec);

  // Whether a row with these weights, rounded as they are stored, is of low score.
  bool IsLow(std::span<const float> weights) const;

  bool Expired(uint64_t key, int64_t last_step, bool low) const {
    return last_step < newest_[low] && last_step < horizons_[low][SliceOf(key)];
  }

  // A new row.
  void Add(uint64_t key, int64_t step, bool low) { ages_[low].Add(step, SliceOf(key)); }
  // A live row was pushed.
  void Touch(uint64_t key, int64_t old_step, bool old_low, int64_t new_step, bool new_low) {
    if (old_step == new_step && old_low == new_low) return;
    const uint32_t slice = SliceOf(key);
    ages_[old_low].Remove(old_step, slice);
    ages_[new_low].Add(new_step, slice);
  }

  // Says that pushes of `step` begin, at so many minutes since the start by the caller's clock.
  // Either going backwards changes nothing. To be called before the rows of the step's pushes are
  // looked at.
  void Advance(int64_t step, double minutes);

  int64_t step() const { return step_; }
  uint64_t live() const { return ages_[0].rows() + ages_[1].rows(); }
  // Rows that expired. Not saved.
  uint64_t evicted() const { return evicted_; }
  size_t bytes() const { return sizeof(*this) + ages_[0].bytes() + ages_[1].bytes(); }

  const Horizons& horizons() const { return horizons_; }
  // Takes over horizons that another one decided on at `step`: counted here, rows before them go.
  void Follow(int64_t step, const Horizons& horizons);
  // Forgets all counts, and counts what these have.
  void Recount(std::span<const Eviction* const> parts);

  // Everything, so that a loaded one goes on as the saved one. Little-endian:
  //
  //   eviction := version:u8=1 min_score:f32 step:i64 minute:i64 saved:f64
  //               horizons:i64[2][256] ages[2] (ps/row_ages.h)
  std::string Save() const;
  // kDataLoss if `bytes` are no saved state; kFailedPrecondition if it was saved under another
  // min_score, whose low rows are others. Nothing is changed then.
  //
  // Where a saved state does not fit (another min_score or number of shards, a table that had no
  // eviction): scan the rows, leave out those that the state's owner calls Expired, and Add the
  // others to a new Eviction. Its horizons start at 0.
  [[nodiscard]] absl::Status Load(std::string_view bytes);
  // A saved state under no rules but its own min_score: it can tell who is expired.
  [[nodiscard]] static absl::StatusOr<Eviction> OfSaved(std::string_view bytes);

 private:
  struct Due {
    bool low = false;
    RowAges::Cell cell;
  };

  static uint32_t SliceOf(uint64_t key) {
    return static_cast<uint32_t>(MixTwo(kStream, key) >> 56);
  }
  static constexpr uint64_t kStream = HashName("eviction");
  static_assert(RowAges::kSlices == 1u << (64 - 56));

  // The next cell that the rules ask for.
  std::optional<Due> NextDue();
  void Release(const Due& due);
  void Round();

  const EvictionSpec spec_;
  const float min_square_;
  std::array<RowAges, 2> ages_;  // [low], of live rows
  Horizons horizons_ = {};
  std::array<int64_t, 2> newest_ = {};  // [low], the newest horizon: the first look
  int64_t step_ = 0;
  int64_t minute_ = 0;  // of the last round
  double saved_ = 0;    // rows that may go beside a minute's share: ps/eviction.cc
  uint64_t evicted_ = 0;
};

}  // namespace savior
