// What every test of faults prints: the seed that it was drawn from, and the figure that it
// measured (docs/reliability.md has them).
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

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

}  // namespace savior
