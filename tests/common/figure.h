// What fault tests print: the seed that they were drawn from, and a line with the figure that they
// measured, one per test of the catalogue in docs/reliability.md.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

namespace savior {

// Another one each time, or SAVIOR_TEST_SEED; printed.
inline uint64_t TestSeed() {
  const char* given = std::getenv("SAVIOR_TEST_SEED");
  const uint64_t seed =
      given == nullptr ? std::random_device{}() : std::strtoull(given, nullptr, 10);
  std::cout << "SEED " << seed << " (again: SAVIOR_TEST_SEED=" << seed << ")" << std::endl;
  return seed;
}

inline void PrintFigure(const std::string& test, const std::string& figure) {
  std::cout << "FIGURE " << test << ": " << figure << std::endl;
}

// Long forms have the label slow, and this in their environment.
inline bool LongForm() { return std::getenv("SAVIOR_LONG_TESTS") != nullptr; }

// The least value that `share` of all do not exceed. `values` is not empty.
inline double Percentile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  const auto last = values.size() - 1;
  return values[std::min(last, static_cast<size_t>(share * static_cast<double>(values.size())))];
}

}  // namespace savior
