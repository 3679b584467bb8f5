// How fast and in how much memory does `savior prepare` work?
//
//   bench_prepare [impressions = 2000000] [memory_MiB = 1024] [folder = /tmp/bench-prepare]
//
// Generates raw data (worker/data/generate.h) with about that many impressions, 10 per request, and
// prepares it, on one thread. CPU time is user plus system time of the process during Prepare
// alone. Peak RSS is VmHWM, reset before Prepare: it counts mapped files' pages, too, which the
// kernel may take back; so the peak of RssAnon, which it may not, is sampled beside it. 100 million
// impressions take about 10 GB of disk.
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "worker/data/generate.h"
#include "worker/data/prepare.h"

namespace savior {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return t.tv_sec + 1e-6 * t.tv_usec; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The value behind "key:" in a file of /proc, or "" if it is not there.
std::string ProcField(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t colon = line.find(':');
    return line.substr(line.find_first_not_of(" \t", colon + 1));
  }
  return "";
}

double MiB(const char* key) {
  return std::atof(ProcField("/proc/self/status", key).c_str()) / 1024.0;
}

// Samples RssAnon every 20 ms.
class AnonSampler {
 public:
  AnonSampler() : thread_([this] { Run(); }) {}
  double Stop() {
    stop_ = true;
    thread_.join();
    return peak_;
  }

 private:
  void Run() {
    while (!stop_) {
      peak_ = std::max(peak_, MiB("RssAnon"));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

  std::atomic<bool> stop_ = false;
  double peak_ = 0;  // read after the join
  std::thread thread_;
};

int Run(int64_t impressions, int64_t memory_mib, const std::string& folder) {
  GenerateOptions generate{.out = folder + "/raw"};
  generate.candidates = 10;
  generate.days = 30;
  generate.users = std::max<int64_t>(100, impressions / 300);
  generate.items = std::max<int64_t>(1000, std::min<int64_t>(1'000'000, impressions / 100));
  generate.requests_per_user_day =
      static_cast<double>(impressions) / 10 / 30 / static_cast<double>(generate.users);
  const double generate_from = CpuSeconds();
  const auto generated = Generate(generate);
  if (!generated.ok()) {
    std::fprintf(stderr, "%s\n", generated.status().ToString().c_str());
    return 1;
  }
  const double generate_cpu = CpuSeconds() - generate_from;

  const bool reset = static_cast<bool>(std::ofstream("/proc/self/clear_refs") << "5" << std::flush);
  const double before_mib = MiB("VmRSS");
  AnonSampler sampler;
  const double cpu_from = CpuSeconds();
  const auto wall_from = std::chrono::steady_clock::now();
  const auto prepared =
      Prepare({.raw = generate.out, .out = folder + "/log", .memory_bytes = memory_mib << 20});
  const double cpu = CpuSeconds() - cpu_from;
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - wall_from;
  const double anon_mib = sampler.Stop();
  if (!prepared.ok()) {
    std::fprintf(stderr, "%s\n", prepared.status().ToString().c_str());
    return 1;
  }
  utsname machine{};
  uname(&machine);
  std::printf("machine      %s, %u CPUs, %s %s\n", ProcField("/proc/cpuinfo", "model name").c_str(),
              std::thread::hardware_concurrency(), machine.sysname, machine.release);
  std::printf("method       generated data, one thread, page cache as generating left it\n");
  std::printf(
      "data         %lld impressions, %lld requests, %lld behaviours, %lld users, %lld items\n",
      static_cast<long long>(prepared->impressions), static_cast<long long>(prepared->requests),
      static_cast<long long>(prepared->behaviours), static_cast<long long>(prepared->users),
      static_cast<long long>(prepared->items));
  std::printf("generate     %.1f CPU s\n", generate_cpu);
  std::printf("prepare      %.1f CPU s, %.1f s wall\n", cpu, wall.count());
  std::printf("throughput   %.2f M impressions per CPU minute\n",
              static_cast<double>(prepared->impressions) / cpu * 60 / 1e6);
  std::printf(
      "memory       budget %lld MiB; RSS %.0f MiB before, peak %.0f MiB%s, peak anonymous %.0f "
      "MiB\n",
      static_cast<long long>(memory_mib), before_mib, MiB("VmHWM"),
      reset ? "" : " (of the whole process: it could not be reset)", anon_mib);
  return 0;
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  int64_t impressions = 2'000'000;
  int64_t memory_mib = 1024;
  const bool fine = argc <= 4 && (argc < 2 || absl::SimpleAtoi(argv[1], &impressions)) &&
                    (argc < 3 || absl::SimpleAtoi(argv[2], &memory_mib)) && impressions > 0 &&
                    memory_mib > 0;
  if (!fine) {
    std::fprintf(stderr, "usage: %s [impressions] [memory_MiB] [folder]\n", argv[0]);
    return 2;
  }
  return savior::Run(impressions, memory_mib, argc < 4 ? "/tmp/bench-prepare" : argv[3]);
}
