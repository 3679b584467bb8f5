#include "common/failpoint.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace savior {
namespace {

enum class Action { kNone, kExit, kError };

struct Point {
  Action action = Action::kNone;
  uint64_t at = 1;  // the hit that it is about
  uint64_t hits = 0;
};

struct Armed {
  absl::Status status;  // of the text
  std::vector<Point> points = std::vector<Point>(kFailpoints.size());
};

absl::Status Arm(const std::string& entry, std::vector<Point>* points) {
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        fmt::format("{}: \"{}\": {}; it is name=exit or name=error, then @n: `savior "
                    "--list-failpoints` names them",
                    kFailpointVariable, entry, what));
  };
  const std::pair<std::string, std::string> parts = absl::StrSplit(entry, absl::MaxSplits('=', 1));
  const std::pair<std::string, std::string> action =
      absl::StrSplit(parts.second, absl::MaxSplits('@', 1));
  const size_t number = FailpointNumber(parts.first);
  if (number == kFailpoints.size()) return refuse("no such failpoint");
  Point& point = (*points)[number];
  if (action.first == "exit") {
    point.action = Action::kExit;
  } else if (action.first == "error") {
    point.action = Action::kError;
  } else {
    return refuse("no such action");
  }
  const bool counted = parts.second.find('@') != std::string::npos;
  if (counted && (!absl::SimpleAtoi(action.second, &point.at) || point.at == 0)) {
    return refuse("no such hit");
  }
  return absl::OkStatus();
}

Armed Parse(const std::string& text) {
  Armed armed;
  const std::vector<std::string> entries = absl::StrSplit(text, ',', absl::SkipWhitespace());
  for (const std::string& entry : entries) {
    armed.status.Update(Arm(entry, &armed.points));
  }
  if (!text.empty() && !FailpointsCompiledIn()) {
    armed.status = absl::FailedPreconditionError(fmt::format(
        "{} is set to \"{}\", and this build has no failpoints: build with -DSAVIOR_FAILPOINTS=ON",
        kFailpointVariable, text));
  }
  return armed;
}

// The process's points: what they do is the environment's word, which is the process's, too.
struct Process {
  std::mutex mutex;
  Armed armed;  // guarded by mutex
};

Process& OfThisProcess() {
  static Process process;
  static const bool read = [] {
    const char* text = std::getenv(kFailpointVariable);
    process.armed = Parse(text == nullptr ? "" : text);
    return true;
  }();
  static_cast<void>(read);
  return process;
}

}  // namespace

bool FailpointsCompiledIn() {
#ifdef SAVIOR_NO_FAILPOINTS
  return false;
#else
  return true;
#endif
}

absl::Status CheckFailpoints() {
  Process& process = OfThisProcess();
  const std::lock_guard lock(process.mutex);
  return process.armed.status;
}

absl::Status ArmFailpoints(const std::string& text) {
  Process& process = OfThisProcess();
  const std::lock_guard lock(process.mutex);
  process.armed = Parse(text);
  return process.armed.status;
}

absl::Status HitFailpoint(size_t number) {
  Process& process = OfThisProcess();
  const std::lock_guard lock(process.mutex);
  Point& point = process.armed.points[number];
  if (point.action == Action::kNone || ++point.hits != point.at) return process.armed.status;
  const FailpointInfo& info = kFailpoints[number];
  const std::string said =
      fmt::format("failpoint {} ({}), hit {}", info.name, info.what, point.hits);
  if (point.action == Action::kError) {
    return absl::FailedPreconditionError(said + ": told to fail");
  }
  std::fprintf(stderr, "%s: exit\n", said.c_str());
  ::_exit(kFailpointExit);
}

}  // namespace savior
