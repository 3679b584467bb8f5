#include "common/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace savior {
namespace {

constexpr absl::Duration kRedrawEvery = absl::Milliseconds(100);
constexpr int kBarWidth = 24;

// "1:02:03", "2:03".
std::string Clock(absl::Duration time) {
  const int64_t s = absl::ToInt64Seconds(time);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

// Three significant figures: "12.3 M", "4.56 k", "7.00".
std::string Short(double value) {
  for (const auto& [scale, suffix] : {std::pair{1e9, " G"}, {1e6, " M"}, {1e3, " k"}}) {
    if (value >= scale) return fmt::format("{:.3g}{}", value / scale, suffix);
  }
  return fmt::format("{:.3g}", value);
}

}  // namespace

Progress::Progress(std::string what, int64_t total, std::string unit, absl::Duration line_every,
                   int64_t before)
    : what_(std::move(what)),
      total_(total),
      unit_(std::move(unit)),
      line_every_(line_every),
      terminal_(::isatty(STDERR_FILENO) == 1),
      start_(SteadyClock::now()),
      before_(before),
      last_(start_),
      done_(before) {}

Progress::~Progress() {
  if (!finished_) Finish();
}

std::string Progress::Line(int64_t done, const std::string& note) const {
  const absl::Duration passed = absl::FromChrono(SteadyClock::now() - start_);
  const double seconds = absl::ToDoubleSeconds(passed);
  const double rate = seconds > 0 ? static_cast<double>(done - before_) / seconds : 0;
  std::string line = what_;
  if (total_ > 0) {
    const double share =
        std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0., 1.);
    if (terminal_) {
      const int full = static_cast<int>(share * kBarWidth);
      line += fmt::format(" [{:=<{}}{: <{}}]", "", full, "", kBarWidth - full);
    }
    line += fmt::format(" {:3.0f}% {}/{} {}", 100 * share, done, total_, unit_);
  } else {
    line += fmt::format(" {} {}", done, unit_);
  }
  line += fmt::format(", {}/s, {}", Short(rate), Clock(passed));
  if (total_ > done && rate > 0) {
    line +=
        fmt::format(", {} left", Clock(absl::Seconds(static_cast<double>(total_ - done) / rate)));
  }
  return note.empty() ? line : line + ", " + note;
}

void Progress::Update(int64_t done, const std::string& note) {
  done_ = done;
  const auto now = SteadyClock::now();
  if (absl::FromChrono(now - last_) < (terminal_ ? kRedrawEvery : line_every_)) return;
  last_ = now;
  // "\033[K" clears what a longer line left behind.
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r" : "", Line(done, note),
             terminal_ ? "\033[K" : "\n");
  std::fflush(stderr);
}

void Progress::Finish(const std::string& note) {
  if (finished_) return;
  finished_ = true;
  fmt::print(stderr, "{}{}{}\n", terminal_ ? "\r" : "", Line(done_, note),
             terminal_ ? "\033[K" : "");
  std::fflush(stderr);
}

}  // namespace savior
