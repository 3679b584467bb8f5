// What every bench shares: flags, the machine's line, CPU seconds, percentiles, Zipf keys, JSON
// lines.
//
//   int main(int argc, char** argv) {
//     CLI::App app("What does a pull cost?");
//     BenchFlags flags;
//     flags.AddTo(&app);              // --json FILE, --seconds S, --smoke
//     CLI11_PARSE(app, argc, argv);
//     BenchReport report("bench_pull", "how it was measured, in a sentence", flags);
//     ...
//     report.Add({{"dim", 16}, {"cpu_us_per_key", 0.12}});
//     return report.Finish();
//   }
#pragma once

#include <sys/types.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/random.h"
#include "common/status.h"

namespace savior {

struct BenchFlags {
  std::string json;      // file for JSON lines; empty: none
  double seconds = 0.3;  // of one measurement
  bool smoke = false;    // everything once and tiny: that it works, not how fast

  void AddTo(CLI::App* app);
};

// "AMD EPYC, 2 cores, Linux 6.1.0, load 0.12": what a figure was measured on. The load is the last
// minute's.
std::string MachineLine();

// CPU seconds (user and system, all threads) that a running process has used; 0: this one. To the
// nanosecond, where /proc counts ticks. Dies if there is no such process.
double CpuSecondsOf(pid_t pid = 0);

// CPU seconds of the calling thread.
double ThreadCpuSeconds();

// Ends the program with `status` on stderr unless it is OK: a bench has nobody to tell.
void CheckOk(const absl::Status& status);

// What a Python program of this folder prints, which is JSON; `command`: its name and arguments, as
// for a shell. Dies where it fails.
nlohmann::json AskPython(const std::string& command);

// Seconds on the steady clock.
double NowSeconds();

// The value below which `share` of `values` lie, the upper of two; values need not be sorted, must
// not be empty.
double Percentile(std::vector<double> values, double share);
inline double Median(const std::vector<double>& values) { return Percentile(values, 0.5); }

// Ranks 1 .. n, rank r with probability proportional to r^-exponent, by rejection-inversion
// (Hoermann and Derflinger, 1996): no tables, any n. Single-threaded.
class Zipf {
 public:
  // exponent > 0, not 1.
  Zipf(uint64_t n, double exponent, uint64_t seed);
  uint64_t Draw();

 private:
  double Integral(double x) const;         // of t^-exponent
  double IntegralInverse(double y) const;  // Integral's inverse

  const double n_;
  const double exponent_;
  double first_;  // Integral(1.5) - 1
  double last_;   // Integral(n + .5)
  double shortcut_;
  Random random_;
};

// The keys of a batch: Mix(rank) of ranks drawn until `unique` different ones are there, in
// first-seen order. unique <= n.
std::vector<uint64_t> DrawUniqueKeys(Zipf* zipf, size_t unique);

// Prints the method and the machine at the start; then collects records, and writes each as a line
// of JSON (with `bench` and `machine` added) if --json was given. Tables for
// people are the bench's own business.
class BenchReport {
 public:
  BenchReport(const std::string& bench, const std::string& method, const BenchFlags& flags);

  void Add(nlohmann::json record);
  // The load at the end, and the process's exit status: 1 if the JSON could not be written.
  int Finish();

 private:
  const std::string bench_;
  const std::string machine_;
  const std::string path_;
  std::ofstream json_;
};

}  // namespace savior
