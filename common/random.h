// Counter-based randomness: every number is a pure function of (seed, stream, counter).
//
// Nothing that draws from here has hidden state, so a resumed run, another shard count or another
// thread sees the same numbers: the "RNG state" of a commit is its seed and its step.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string_view>

namespace savior {

// splitmix64's finaliser (Steele et al., 2014): a bijection of uint64 whose output bits all depend
// on all input bits.
constexpr uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t MixTwo(uint64_t a, uint64_t b) {
  return Mix(Mix(a) ^ (b + 0x632be59bd9b4e019ULL));
}

// FNV-1a: a stream's number from its name.
constexpr uint64_t HashName(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

// Uniform in [0, 1), from the top 53 bits of `bits`.
constexpr double ToUnit(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1.0p-53; }

// A stream of numbers named by (seed, stream). Single-threaded, trivially copyable; satisfies
// UniformRandomBitGenerator, but prefer the methods: the standard distributions differ between
// libraries.
class Random {
 public:
  using result_type = uint64_t;
  explicit constexpr Random(uint64_t seed, uint64_t stream = 0) : key_(MixTwo(seed, stream)) {}

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return std::numeric_limits<uint64_t>::max(); }
  constexpr uint64_t operator()() { return MixTwo(key_, counter_++); }

  // Uniform in [0, 1).
  constexpr double Uniform() { return ToUnit((*this)()); }
  // Uniform in [0, n); n > 0. The bias of the multiplication is below n / 2^64.
  constexpr uint64_t Below(uint64_t n) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<uint64_t>((static_cast<Wide>((*this)()) * n) >> 64);
  }
  // Standard normal, by Box and Muller's transform (one of the two values is dropped: no hidden
  // state).
  double Normal() {
    const double radius = std::sqrt(-2.0 * std::log1p(-Uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * Uniform());
  }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

}  // namespace savior
