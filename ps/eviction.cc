#include "ps/eviction.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ps/packed_bytes.h"

namespace savior {
namespace {

constexpr uint8_t kVersion = 1;

// A share is a float, and 0.01f is a hair below 1/100: a hundred rows would not give one.
constexpr double kAHair = 1.0 + 0x1p-22;

}  // namespace

Eviction::Eviction(const EvictionSpec& spec)
    : spec_(spec), min_square_(spec.min_score * spec.min_score) {}

bool Eviction::IsLow(std::span<const float> weights) const {
  if (spec_.min_score <= 0) return false;
  // Four partial sums in a fixed order, as the compiler may not reorder a float sum. dim % 4 == 0.
  float squares[4] = {};
  for (size_t i = 0; i + 4 <= weights.size(); i += 4) {
    for (size_t j = 0; j < 4; ++j) squares[j] += weights[i + j] * weights[i + j];
  }
  const float sum = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  return sum < min_square_ * static_cast<float>(weights.size());
}

std::optional<Eviction::Due> Eviction::NextDue() {
  const std::optional<RowAges::Cell> ordinary = ages_[0].Oldest();
  const std::optional<RowAges::Cell> low = ages_[1].Oldest();
  if (!ordinary && !low) return std::nullopt;
  const bool low_first = low && (!ordinary || low->end <= ordinary->end);
  const Due older{low_first, low_first ? *low : *ordinary};
  const auto leaves_floor = [this](const RowAges::Cell& cell) {
    return live() - cell.rows >= spec_.floor_rows;
  };
  if (spec_.idle_steps > 0 && older.cell.end <= step_ - int64_t{spec_.idle_steps} &&
      leaves_floor(older.cell)) {
    return older;
  }
  if (spec_.min_score > 0 && low && low->end <= step_ - int64_t{spec_.score_idle_steps} &&
      leaves_floor(*low)) {
    return Due{true, *low};
  }
  // A bin that still gets rows cannot go: they would be expired with their first push.
  if (spec_.capacity_rows > 0 && live() > spec_.capacity_rows && older.cell.end <= step_) {
    return older;
  }
  return std::nullopt;
}

void Eviction::Release(const Due& due) {
  evicted_ += ages_[due.low].RemoveBefore(due.cell.end, due.cell.slice);
  int64_t& horizon = horizons_[due.low][due.cell.slice];
  horizon = std::max(horizon, due.cell.end);
  newest_[due.low] = std::max(newest_[due.low], horizon);
}

void Eviction::Round() {
  const double share =
      static_cast<double>(spec_.max_share_per_minute) * kAHair * static_cast<double>(live());
  double left = share;
  for (std::optional<Due> due = NextDue(); due.has_value(); due = NextDue()) {
    const double rows = due->cell.rows;
    if (left == share && rows > share) {
      // More than any minute's share: it waits until enough minutes have given theirs, and goes
      // alone. What smaller cells leave of a share is not saved: the next minute would exceed its.
      saved_ += share;
      if (saved_ < rows) return;
      Release(*due);
      break;
    }
    if (rows > left) break;
    left -= rows;
    Release(*due);
  }
  saved_ = 0;
}

void Eviction::Advance(int64_t step, double minutes) {
  if (step > step_) {
    step_ = step;
    for (RowAges& ages : ages_) ages.Reach(step);
  }
  // Also false for NaN. 2^53: from there on minutes are not told apart.
  if (!(minutes >= static_cast<double>(minute_ + 1)) || minutes > 0x1p53) return;
  minute_ = static_cast<int64_t>(minutes);
  Round();
}

void Eviction::Follow(int64_t step, const Horizons& horizons) {
  if (step > step_) {
    step_ = step;
    for (RowAges& ages : ages_) ages.Reach(step);
  }
  for (const bool low : {false, true}) {
    for (uint32_t slice = 0; slice < RowAges::kSlices; ++slice) {
      const int64_t horizon = horizons[low][slice];
      if (horizon > horizons_[low][slice]) Release({low, {.end = horizon, .slice = slice}});
    }
    ages_[low].Trim();
  }
}

void Eviction::Recount(std::span<const Eviction* const> parts) {
  for (const bool low : {false, true}) {
    ages_[low].Clear();
    for (const Eviction* part : parts) ages_[low].Merge(part->ages_[low]);
  }
}

std::string Eviction::Save() const {
  std::string bytes;
  AppendNumber(kVersion, &bytes);
  AppendNumber(spec_.min_score, &bytes);
  AppendNumber(step_, &bytes);
  AppendNumber(minute_, &bytes);
  AppendNumber(saved_, &bytes);
  for (const auto& horizons : horizons_) AppendNumbers<int64_t>(horizons, &bytes);
  for (const RowAges& ages : ages_) ages.Append(&bytes);
  return bytes;
}

absl::StatusOr<Eviction> Eviction::OfSaved(std::string_view bytes) {
  EvictionSpec spec;
  uint8_t version = 0;
  std::string_view rest = bytes;
  if (!TakeNumber(&rest, &version) || !TakeNumber(&rest, &spec.min_score)) {
    return absl::DataLossError("the state of the eviction is malformed");
  }
  Eviction eviction(spec);
  SAVIOR_RETURN_IF_ERROR(eviction.Load(bytes));
  return eviction;
}

absl::Status Eviction::Load(std::string_view bytes) {
  const auto malformed = [] {
    return absl::DataLossError("the state of the eviction is malformed");
  };
  uint8_t version = 0;
  float min_score = 0;
  Eviction loaded(spec_);
  if (!TakeNumber(&bytes, &version) || version != kVersion || !TakeNumber(&bytes, &min_score) ||
      !TakeNumber(&bytes, &loaded.step_) || loaded.step_ < 0 ||
      !TakeNumber(&bytes, &loaded.minute_) || loaded.minute_ < 0 || loaded.minute_ > 1LL << 53 ||
      !TakeNumber(&bytes, &loaded.saved_) || !std::isfinite(loaded.saved_) || loaded.saved_ < 0) {
    return malformed();
  }
  for (const bool low : {false, true}) {
    if (!TakeNumbers<int64_t>(&bytes, loaded.horizons_[low])) return malformed();
    const auto [least, most] = std::ranges::minmax(loaded.horizons_[low]);
    if (least < 0 || most > loaded.step_) return malformed();
    loaded.newest_[low] = most;
  }
  if (!loaded.ages_[0].Take(&bytes) || !loaded.ages_[1].Take(&bytes) || !bytes.empty()) {
    return malformed();
  }
  if (min_score != spec_.min_score) {
    return absl::FailedPreconditionError("the state of the eviction is of another min_score");
  }
  ages_ = std::move(loaded.ages_);
  horizons_ = loaded.horizons_;
  newest_ = loaded.newest_;
  step_ = loaded.step_;
  minute_ = loaded.minute_;
  saved_ = loaded.saved_;
  return absl::OkStatus();
}

}  // namespace savior
