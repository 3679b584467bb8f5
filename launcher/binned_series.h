// A figure over the steps of a run, in bounded memory: steps in ranges of equal length, and of each
// its mean, least and largest value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace savior {

struct SeriesPoint {
  double step = 0;  // mean of those that count
  double mean = 0, least = 0, most = 0;
  int64_t count = 0;  // > 0
};

// 40 bytes per range. Copyable, single-threaded.
class BinnedSeries {
 public:
  // Of steps first..last, in `ranges` at most; first <= last, ranges > 0.
  BinnedSeries(int64_t first, int64_t last, size_t ranges);

  // What is not finite, or of a step that is not among them, is left out.
  void Add(int64_t step, double value);

  // By step; ranges without values have none.
  std::vector<SeriesPoint> Points() const;
  bool empty() const { return count_ == 0; }

 private:
  int64_t first_, last_, width_;
  int64_t count_ = 0;
  std::vector<SeriesPoint> ranges_;  // step, mean: sums
};

}  // namespace savior
