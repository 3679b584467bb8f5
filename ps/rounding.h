// Rounding of weights to what a 16-bit table can store. Pure functions, thread-safe.
//
// Afterwards every weight is a value of the table's dtype, held as float32: storing it loses
// nothing, and where a row is changes nothing. A finite weight stays finite: beyond the range it
// becomes the largest there is. Infinities stay, NaN stays NaN.
#pragma once

#include <cstdint>
#include <span>

#include "common/store.h"

namespace savior {

// Rounds learned weights stochastically: up with the probability of the distance to the value
// below, in steps between the two. So the mean is the weight itself, and many updates smaller than
// half a step are not lost (Gupta et al., 2015). Which way each weight goes is a function of (seed,
// key, updates, index). A weight that the dtype has stays as it is. kFloat32: does nothing.
//
// seed: of the table, e.g. MixTwo(seed, HashName(name)). updates: of the row, with this one.
//
// The mean is exact for bfloat16 and for float16 from 2^-14 on; below, float16's steps are 2^-24
// and the mean is low by less than 2^-16 of one.
void RoundWeights(StoreDtype dtype, uint64_t seed, uint64_t key, uint32_t updates,
                  std::span<float> weights);

// Rounds to the nearest, ties to even: what is put into frozen tables.
void RoundToNearest(StoreDtype dtype, std::span<float> weights);

}  // namespace savior
