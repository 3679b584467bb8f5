// Panels: 16 floats that are computed together, one register of AVX-512, two of AVX2, four of SSE.
// Kernels over panels are compiled once per instruction set and chosen when they are first called.
//
// Not SAVIOR_SIMD (common/simd.h): how many panels the registers hold differs, and with it the
// code.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "common/simd.h"

// Panels are passed to functions that are always inlined only: how others would pass them is no
// matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace savior {

inline constexpr int64_t kPanel = 16;

typedef float Panel __attribute__((vector_size(kPanel * sizeof(float))));
typedef float HalfPanel __attribute__((vector_size(kPanel / 2 * sizeof(float))));
typedef int32_t IntPanel __attribute__((vector_size(kPanel * sizeof(int32_t))));

constexpr int64_t PanelsOf(int64_t size) { return (size + kPanel - 1) / kPanel; }

SAVIOR_INLINE Panel LoadPanel(const float* from) {
  Panel panel;
  std::memcpy(&panel, from, sizeof(panel));
  return panel;
}
SAVIOR_INLINE void StorePanel(float* to, const Panel& panel) {
  std::memcpy(to, &panel, sizeof(panel));
}

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

#if defined(__x86_64__) && defined(__GNUC__)
#define SAVIOR_AVX2 __attribute__((target("avx2,fma,bmi2")))
#define SAVIOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")))

inline InstructionSet MachinesInstructionSet() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return InstructionSet::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2")) {
    return InstructionSet::kAvx2;
  }
  return InstructionSet::kBaseline;
}
#else
#define SAVIOR_AVX2
#define SAVIOR_AVX512
inline InstructionSet MachinesInstructionSet() { return InstructionSet::kBaseline; }
#endif

// This machine's, or the lower one that SAVIOR_INSTRUCTION_SET says (baseline, avx2): so that tests
// run all code on one machine.
inline InstructionSet BestInstructionSet() {
  const InstructionSet machines = MachinesInstructionSet();
  const char* const told = std::getenv("SAVIOR_INSTRUCTION_SET");
  const std::string_view wanted = told == nullptr ? "" : told;
  if (wanted == "baseline") return InstructionSet::kBaseline;
  if (wanted == "avx2" && machines == InstructionSet::kAvx512) return InstructionSet::kAvx2;
  return machines;
}

// One of three functions of the same type.
template <typename Function>
Function* ForThisMachine(Function* baseline, Function* avx2, Function* avx512) {
  const InstructionSet best = BestInstructionSet();
  if (best == InstructionSet::kAvx512) return avx512;
  return best == InstructionSet::kAvx2 ? avx2 : baseline;
}

}  // namespace savior
