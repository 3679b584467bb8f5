#include "ps/ram_budget.h"

#include <algorithm>

namespace savior {

std::vector<uint64_t> DivideBudget(uint64_t budget, std::span<const TableDemand> demands) {
  std::vector<uint64_t> parts;  // beyond the least, until the end
  uint64_t least = 0;
  for (const TableDemand& demand : demands) least += demand.least;
  uint64_t left = budget - std::min(least, budget);

  parts.assign(demands.size(), 0);
  std::vector<bool> settled(demands.size(), false);
  // Each round settles the tables that need less than their share. The shares of the others only
  // grow by that, so no settled table would have had less to claim: at most one round per table.
  for (bool again = true; again;) {
    again = false;
    double use = 0;
    for (size_t t = 0; t < demands.size(); ++t) {
      if (!settled[t]) use += static_cast<double>(demands[t].use) + 1;
    }
    const auto unsettled = static_cast<double>(left);
    for (size_t t = 0; t < demands.size(); ++t) {
      if (settled[t]) continue;
      const double share = unsettled * (static_cast<double>(demands[t].use) + 1) / use;
      parts[t] = std::min(static_cast<uint64_t>(share), left);
      const uint64_t want = demands[t].want - std::min(demands[t].least, demands[t].want);
      if (want > parts[t]) continue;
      parts[t] = want;
      settled[t] = true;
      left -= want;
      again = true;
    }
  }
  uint64_t spare = budget - std::min(least, budget);
  for (const uint64_t part : parts) spare -= std::min(part, spare);
  for (size_t t = 0; t < demands.size(); ++t) {
    parts[t] += demands[t].least + spare / demands.size();
  }
  return parts;
}

std::vector<uint64_t> Approach(std::span<const uint64_t> limits, std::span<const uint64_t> held,
                               std::span<const uint64_t> goals) {
  std::vector<uint64_t> next(goals.begin(), goals.end());
  uint64_t owed = 0;    // what those that give way still hold beyond their goals
  uint64_t wanted = 0;  // by the others, beyond their limits
  for (size_t t = 0; t < goals.size(); ++t) {
    if (goals[t] < limits[t]) {
      if (limits[t] - goals[t] < limits[t] / 64) next[t] = limits[t];
      const uint64_t step = std::max<uint64_t>(held[t] / 16, uint64_t{256} << 10);
      next[t] = std::max(next[t], std::min(limits[t], held[t] - std::min(held[t], step)));
      owed += std::max(next[t], held[t]) - std::min(goals[t], std::max(next[t], held[t]));
    } else {
      wanted += goals[t] - limits[t];
    }
  }
  if (owed == 0) return next;
  for (size_t t = 0; t < goals.size(); ++t) {
    if (goals[t] < limits[t] || wanted == 0) continue;
    const double part = static_cast<double>(goals[t] - limits[t]) / static_cast<double>(wanted);
    const auto less = static_cast<uint64_t>(part * static_cast<double>(owed)) + 1;
    next[t] = limits[t] + (goals[t] - limits[t]) - std::min(goals[t] - limits[t], less);
  }
  return next;
}

}  // namespace savior
