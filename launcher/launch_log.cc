#include "launcher/launch_log.h"

#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <fmt/format.h>

#include <iostream>

namespace savior {

LaunchLog::LaunchLog(const std::filesystem::path& path) : path_(path), file_(path, std::ios::app) {
  if (!file_) Say(fmt::format("{} cannot be written: the log is here only", path.string()));
}

void LaunchLog::Say(std::string_view text) {
  const std::string time = absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone());
  Show("launch", fmt::format("{} {}", time, text), /*error=*/true);
}

void LaunchLog::Show(std::string_view who, std::string_view line, bool error) {
  const std::string whole = fmt::format("{} | {}\n", who, line);
  std::ostream& terminal = error ? std::cerr : std::cout;
  terminal << whole << std::flush;
  terminal.clear();  // nobody reads any more (`| head`): the run goes on
  file_ << whole << std::flush;
  file_.clear();  // a full disk may have room again
}

}  // namespace savior
