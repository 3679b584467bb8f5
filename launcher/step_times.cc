#include "launcher/step_times.h"

#include <algorithm>
#include <cmath>

namespace savior {
namespace {

constexpr double kLeast = 1e-6;
const double kLogOfGrowth = std::log(1.05);

}  // namespace

void Durations::Add(double seconds) {
  const double range =
      seconds > kLeast ? std::ceil(std::log(seconds / kLeast) / kLogOfGrowth) : 0.0;
  ++counts_[static_cast<size_t>(std::min(range, static_cast<double>(kRanges - 1)))];
  ++count_;
  sum_ += seconds;
}

double Durations::Mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

double Durations::Percentile(double share) const {
  if (count_ == 0) return 0;
  const double wanted = share * static_cast<double>(count_);
  uint64_t passed = 0;
  size_t range = 0;
  for (; range + 1 < kRanges; ++range) {
    passed += counts_[range];
    if (static_cast<double>(passed) >= wanted && passed > 0) break;
  }
  return kLeast * std::exp(static_cast<double>(range) * kLogOfGrowth);
}

void StepTimes::Add(const StepSeconds& parts, double step) {
  const double all[kParts] = {step,          parts.assemble,  parts.pull_wait,
                              parts.compute, parts.push_wait, parts.allreduce_wait,
                              parts.adam};
  for (size_t p = 0; p < kParts; ++p) parts_[p].Add(all[p]);
  ++steps_;
}

nlohmann::ordered_json StepTimes::ToJson() const {
  constexpr const char* kNames[kParts] = {"step",      "assemble",       "pull_wait", "compute",
                                          "push_wait", "allreduce_wait", "adam"};
  nlohmann::ordered_json json = {{"steps", steps_}};
  for (size_t p = 0; p < kParts; ++p) {
    json[kNames[p]] = {{"mean", parts_[p].Mean()}, {"p99", parts_[p].Percentile(0.99)}};
  }
  return json;
}

}  // namespace savior
