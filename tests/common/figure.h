// What fault tests print, one line per test of the catalogue in docs/reliability.md.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

namespace savior {

inline void PrintFigure(const std::string& test, const std::string& figure) {
  std::printf("FIGURE %s: %s\n", test.c_str(), figure.c_str());
  std::fflush(stdout);
}

// The least value that `share` of all do not exceed. `values` is not empty.
inline double Percentile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  const auto last = values.size() - 1;
  return values[std::min(last, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

}  // namespace savior
