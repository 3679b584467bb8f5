#include "launcher/switch_window.h"

#include <algorithm>
#include <string_view>

namespace savior {
namespace {

constexpr std::string_view kVersion = "codebook.version", kSince = "codebook.since_step";
constexpr std::string_view kProgressive = "progressive.";
// Bounds what is held: this many lines a side at most.
constexpr int64_t kMostSteps = 5000;
constexpr int64_t kLeastSteps = 100;

bool IsFigure(std::string_view name) {
  return name == "loss_ctr" || name == "loss_ctcvr" || name == "samples_per_s" ||
         name.starts_with(kProgressive);
}

// "progressive.new.auc" -> "progressive.new.n", the impressions it is of; "": it is of none.
std::string WeightOf(std::string_view name) {
  if (!name.starts_with(kProgressive)) return "";
  return std::string(name.substr(0, name.rfind('.'))) + ".n";
}

std::optional<size_t> NumberOf(const std::vector<std::string>& names, std::string_view name) {
  const auto found = std::ranges::find(names, name);
  if (found == names.end()) return std::nullopt;
  return static_cast<size_t>(found - names.begin());
}

}  // namespace

SwitchWindows::SwitchWindows(const RefreshHistory& history, int64_t steps) : steps_(steps) {
  for (const CodebookRefresh& refresh : history.refreshes) {
    if (refresh.fate == CodebookRefresh::Fate::kInterrupted) continue;
    if (refresh.switched) windows_.push_back({*refresh.switched, refresh.version, {}, {}});
  }
}

void SwitchWindows::Add(const MetricsLine& line, const std::vector<std::string>& names) {
  for (size_t n = wanted_.size(); n < names.size(); ++n) {
    wanted_.push_back(IsFigure(names[n]));
    if (names[n] == kVersion) version_ = n;
    if (names[n] == kSince) since_ = n;
  }
  for (Window& window : windows_) {
    // The line of a step is written before a switch after it.
    const bool after = line.step > window.step;
    if (std::abs(line.step - window.step) > steps_ || line.step == window.step - steps_) continue;
    const uint32_t wanted = after ? window.version : window.version - 1;
    if (!Says(line, version_, wanted)) continue;
    // The same version may come again after a rollback.
    if (after && !Says(line, since_, static_cast<double>(window.step))) continue;
    std::vector<MetricsValue>& kept = (after ? window.after : window.before)[line.step];
    kept.clear();
    for (const MetricsValue& value : line.values) {
      if (wanted_[value.name]) kept.push_back(value);
    }
  }
}

bool SwitchWindows::Says(const MetricsLine& line, std::optional<size_t> name, double wanted) {
  if (!name) return true;
  const auto value = std::ranges::find(line.values, *name, &MetricsValue::name);
  return value == line.values.end() || value->value == wanted;
}

std::optional<double> SwitchWindows::MeanOf(const Side& side, size_t name,
                                            std::optional<size_t> weight) {
  double sum = 0, weights = 0;
  for (const auto& line : side) {
    const std::vector<MetricsValue>& values = line.second;
    const auto find = [&values](size_t n) {
      return std::ranges::find(values, n, &MetricsValue::name);
    };
    const auto value = find(name);
    if (value == values.end()) continue;
    double w = 1;
    if (weight) {
      const auto found = find(*weight);
      if (found != values.end()) w = found->value;
    }
    sum += w * value->value;
    weights += w;
  }
  if (weights <= 0) return std::nullopt;
  return sum / weights;
}

std::vector<SwitchWindow> SwitchWindows::Figures(const std::vector<std::string>& names) const {
  std::vector<SwitchWindow> told;
  for (const Window& window : windows_) {
    SwitchWindow& t = told.emplace_back();
    t.step = window.step;
    t.version = window.version;
    t.lines_before = window.before.size();
    t.lines_after = window.after.size();
    for (size_t n = 0; n < std::min(names.size(), wanted_.size()); ++n) {
      if (!wanted_[n] || names[n].ends_with(".n")) continue;
      const std::optional<size_t> weight = NumberOf(names, WeightOf(names[n]));
      const WindowFigure figure{names[n], MeanOf(window.before, n, weight),
                                MeanOf(window.after, n, weight)};
      if (figure.before || figure.after) t.figures.push_back(figure);
    }
  }
  return told;
}

int64_t SwitchWindows::StepsFor(int64_t run_steps) {
  int64_t steps = kLeastSteps;
  for (int64_t factor = kLeastSteps; factor <= kMostSteps; factor *= 10) {
    for (const int64_t digit : {1, 2, 5}) {
      const int64_t round = digit * factor;
      if (round <= kMostSteps && round <= run_steps / 20) steps = std::max(steps, round);
    }
  }
  return steps;
}

}  // namespace savior
