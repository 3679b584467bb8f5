// Work on several threads that ends with the call.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstddef>

#include "common/status.h"

namespace savior {

// Calls work(0) to work(n - 1) at the same time, the first on this thread, and waits for all of
// them. Returns the first error by number. What no thread can be had for is done on this one.
[[nodiscard]] absl::Status AtOnce(size_t n, absl::FunctionRef<absl::Status(size_t)> work);

// The same for `n` pieces of work that `threads` share, each taking the next one when it is free.
// After an error no further piece is begun; the first by number of those that failed is returned.
[[nodiscard]] absl::Status ShareOut(size_t n, size_t threads,
                                    absl::FunctionRef<absl::Status(size_t)> work);

// Threads that this machine runs at the same time; at least 1.
size_t Cores();

}  // namespace savior
