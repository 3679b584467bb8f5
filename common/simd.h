// SAVIOR_SIMD: compiles a function once per instruction set and picks one when the program starts,
// so that one binary runs everywhere and uses AVX2 or AVX-512 where there is one.
//
// Helpers that such a function calls must be inlined into it (SAVIOR_INLINE), or they stay baseline
// code.
#pragma once

// Sanitizers start after the loader has resolved the clones (ifuncs), and crash: they get the
// baseline.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(SAVIOR_SANITIZED)
#define SAVIOR_SIMD __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#else
#define SAVIOR_SIMD
#endif
#define SAVIOR_INLINE inline __attribute__((always_inline))
