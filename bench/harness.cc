#include "bench/harness.h"

#include <absl/container/flat_hash_set.h>
#include <glog/logging.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <thread>

namespace savior {
namespace {

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

std::string LoadAverage() {
  std::string load = "?";
  std::ifstream("/proc/loadavg") >> load;
  return load;
}

}  // namespace

void BenchFlags::AddTo(CLI::App* app) {
  app->add_option("--json", json, "Write results as lines of JSON to this file");
  app->add_option("--seconds", seconds, "Length of one measurement")->capture_default_str();
  app->add_flag("--smoke", smoke, "Everything once and tiny: shows that it works, not how fast");
}

std::string MachineLine() {
  utsname machine{};
  uname(&machine);
  return CpuModel() + ", " + std::to_string(std::thread::hardware_concurrency()) + " cores, " +
         machine.sysname + " " + machine.release + ", load " + LoadAverage();
}

double CpuSecondsOf(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  const int error = clock_getcpuclockid(pid, &clock);
  CHECK(error == 0 && clock_gettime(clock, &time) == 0) << "CPU clock of process " << pid;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double ThreadCpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void CheckOk(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status << "\n";
  std::exit(1);
}

nlohmann::json AskPython(const std::string& command) {
  const std::string whole =
      std::string("'") + SAVIOR_PYTHON + "' -B '" + SAVIOR_SOURCE + "/bench/'" + command;
  FILE* const pipe = popen(whole.c_str(), "r");
  std::string text;
  std::array<char, 4096> piece;
  for (size_t n = 0; pipe != nullptr && (n = fread(piece.data(), 1, piece.size(), pipe)) > 0;) {
    text.append(piece.data(), n);
  }
  if (pipe == nullptr || pclose(pipe) != 0) CheckOk(absl::UnavailableError(whole));
  return nlohmann::json::parse(text);
}

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Percentile(std::vector<double> values, double share) {
  CHECK(!values.empty());
  const auto last = static_cast<double>(values.size() - 1);
  const auto at = static_cast<int64_t>(std::ceil(share * last));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

Zipf::Zipf(uint64_t n, double exponent, uint64_t seed)
    : n_(static_cast<double>(n)), exponent_(exponent), random_(seed) {
  CHECK(n > 0 && exponent > 0 && exponent != 1);
  first_ = Integral(1.5) - 1;
  last_ = Integral(n_ + 0.5);
  shortcut_ = 2 - IntegralInverse(Integral(2.5) - std::pow(2.0, -exponent_));
}

double Zipf::Integral(double x) const { return (std::pow(x, 1 - exponent_) - 1) / (1 - exponent_); }

double Zipf::IntegralInverse(double y) const {
  return std::pow(y * (1 - exponent_) + 1, 1 / (1 - exponent_));
}

uint64_t Zipf::Draw() {
  while (true) {
    const double y = last_ + random_.Uniform() * (first_ - last_);
    const double x = IntegralInverse(y);
    const double rank = std::clamp(std::floor(x + 0.5), 1.0, n_);
    // The curve's area right of a rank covers its bar: most draws need no power.
    if (rank - x <= shortcut_ || y >= Integral(rank + 0.5) - std::pow(rank, -exponent_)) {
      return static_cast<uint64_t>(rank);
    }
  }
}

std::vector<uint64_t> DrawUniqueKeys(Zipf* zipf, size_t unique) {
  absl::flat_hash_set<uint64_t> seen;
  seen.reserve(unique);
  std::vector<uint64_t> keys;
  keys.reserve(unique);
  while (keys.size() < unique) {
    const uint64_t rank = zipf->Draw();
    if (seen.insert(rank).second) keys.push_back(Mix(rank));
  }
  return keys;
}

BenchReport::BenchReport(const std::string& bench, const std::string& method,
                         const BenchFlags& flags)
    : bench_(bench), machine_(MachineLine()), path_(flags.json) {
  std::printf("method   %s\nmachine  %s\n", method.c_str(), machine_.c_str());
  std::fflush(stdout);
  if (!path_.empty()) json_.open(path_);
}

void BenchReport::Add(nlohmann::json record) {
  if (path_.empty()) return;
  record["bench"] = bench_;
  record["machine"] = machine_;
  json_ << record.dump() << "\n" << std::flush;
}

int BenchReport::Finish() {
  std::printf("load     %s at the end\n", LoadAverage().c_str());
  if (path_.empty() || json_.good()) return 0;
  std::fprintf(stderr, "error: cannot write %s\n", path_.c_str());
  return 1;
}

}  // namespace savior
