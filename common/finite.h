// Whether values are finite.
#pragma once

#include <span>

namespace savior {

// Whether every |value| <= `max` (finite, >= 0); never with a NaN. Fast: it looks at all of them.
bool AllWithin(std::span<const float> values, float max);

}  // namespace savior
