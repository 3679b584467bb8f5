#include "launcher/binned_series.h"

#include <glog/logging.h>

#include <algorithm>
#include <cmath>

namespace savior {

BinnedSeries::BinnedSeries(int64_t first, int64_t last, size_t ranges)
    : first_(first), last_(last) {
  CHECK_LE(first, last);
  CHECK_GT(ranges, size_t{0});
  const auto wanted = static_cast<int64_t>(ranges);
  const int64_t steps = last - first + 1;
  width_ = std::max<int64_t>(1, (steps + wanted - 1) / wanted);
}

void BinnedSeries::Add(int64_t step, double value) {
  if (!std::isfinite(value) || step < first_ || step > last_) return;
  // Only as far as there are values: most series of a short run are short.
  const auto range = static_cast<size_t>((step - first_) / width_);
  if (range >= ranges_.size()) ranges_.resize(range + 1);
  SeriesPoint& r = ranges_[range];
  r.least = r.count == 0 ? value : std::min(r.least, value);
  r.most = r.count == 0 ? value : std::max(r.most, value);
  r.step += static_cast<double>(step);
  r.mean += value;
  ++r.count;
  ++count_;
}

std::vector<SeriesPoint> BinnedSeries::Points() const {
  std::vector<SeriesPoint> points;
  for (SeriesPoint r : ranges_) {
    if (r.count == 0) continue;
    r.step /= static_cast<double>(r.count);
    r.mean /= static_cast<double>(r.count);
    points.push_back(r);
  }
  return points;
}

}  // namespace savior
