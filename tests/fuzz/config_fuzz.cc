// Any bytes as a configuration file.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = savior::ParseConfig({reinterpret_cast<const char*>(data), size});
  if (!config.ok()) {
    if (!absl::IsInvalidArgument(config.status())) std::abort();
    return 0;
  }
  // What is taken is written as it is read.
  const auto again = savior::ParseConfig(savior::ToToml(*config));
  if (!again.ok() || savior::ToToml(*again) != savior::ToToml(*config)) std::abort();
  return 0;
}
