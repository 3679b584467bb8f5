// How fast does a table train that does not fit into RAM? Steps like a trainer's (pull, hint the
// next step's rows, compute, push) on a store in this process, whose two tables have 1, 3, 10, 30
// times as many rows as the RAM budget holds; with hints and without, beside the same tables all in
// RAM. The compute phase burns CPU time on the worker's thread, as 2,048 samples would at 100,000
// samples per second. Sides take turns; a figure is the median of the rounds.
//
// RocksDB's files are in the page cache as far as the machine has memory; --drop-cache has the
// kernel forget them before every round, so that cold rows come from the disk.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>

#include "bench/harness.h"
#include "ps/local_store.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Sizes {
  uint64_t ram_mb = 32;
  std::vector<double> times = {1, 3, 10, 30};
  uint32_t dim = 32;
  size_t keys = 2048;  // per table and step
  double zipf = 1.05;
  double compute_ms = 20;
  double round_s = 1;
  int rounds = 4;
  bool drop_cache = false;
};

constexpr uint32_t kTables = 2;

Deadline Soon() { return DeadlineIn(std::chrono::minutes(1)); }

// A store with all rows, and a worker's loop over it.
class Training {
 public:
  Training(const Sizes& sizes, uint64_t rows, uint64_t ram_bytes, const fs::path& folder)
      : sizes_(sizes), folder_(folder), rows_(rows) {
    std::vector<TableSpec> tables;
    for (uint32_t t = 0; t < kTables; ++t) {
      tables.push_back({.name = fmt::format("t{}", t),
                        .dim = sizes.dim,
                        .kind = TableKind::kAlign,
                        .optimizer = {.kind = OptimizerKind::kRowwiseAdagrad, .lr = 0.01f}});
      zipfs_.emplace_back(rows, sizes.zipf, t);
    }
    auto store =
        LocalStore::Open({.tables = tables, .ram_budget_bytes = ram_bytes, .folder = folder});
    CheckOk(store.status());
    store_ = *std::move(store);
    grads_.assign(kLoad * sizes.dim, 1e-3f);
    rows_out_.resize(sizes.keys * sizes.dim);
    Load();
  }
  ~Training() {
    store_.reset();
    fs::remove_all(folder_);
  }

  struct Figures {
    double steps_per_s = 0;
    double cpu_ms_per_step = 0;
    double wait_ms = 0;  // of pull and push, per step
    double hit_rate = 0;
  };

  Figures Round(bool hints) {
    if (sizes_.drop_cache) DropCache();
    next_ = Draw();
    const std::vector<TableStats> before = store_->Stats(Soon())->tables;
    const double cpu = CpuSecondsOf();
    const double start = NowSeconds();
    double waited = 0;
    int64_t steps = 0;
    while (NowSeconds() - start < sizes_.round_s) {
      const std::vector<std::vector<uint64_t>> keys = std::move(next_);
      waited += Pull(keys);
      const double compute = ThreadCpuSeconds();
      next_ = Draw();
      if (hints) CheckOk(store_->Hint(step_ + 1, KeysOf(next_)));
      while (ThreadCpuSeconds() - compute < sizes_.compute_ms * 1e-3) {
      }
      waited += Push(keys);
      ++step_;
      ++steps;
    }
    const double passed = NowSeconds() - start;
    const std::vector<TableStats> after = store_->Stats(Soon())->tables;
    double pulled = 0;
    double hits = 0;
    for (uint32_t t = 0; t < kTables; ++t) {
      pulled += static_cast<double>(after[t].pulled - before[t].pulled);
      hits += static_cast<double>(after[t].hot_hits - before[t].hot_hits);
    }
    const auto n = static_cast<double>(steps);
    return {n / passed, (CpuSecondsOf() - cpu) * 1e3 / n, waited * 1e3 / n, hits / pulled};
  }

 private:
  static constexpr size_t kLoad = 8192;

  void Load() {
    std::vector<uint64_t> keys;
    for (uint32_t t = 0; t < kTables; ++t) {
      for (uint64_t begin = 0; begin < rows_; begin += kLoad) {
        const uint64_t n = std::min<uint64_t>(kLoad, rows_ - begin);
        keys.resize(n);
        // From the rarest to the most popular rank: the last ones are hot, as after training.
        for (uint64_t i = 0; i < n; ++i) keys[i] = Mix(rows_ - begin - i);
        const TablePush push{t, keys, std::span(grads_).first(n * sizes_.dim)};
        CheckOk(store_->Push(0, {&push, 1}, Soon()));
      }
    }
  }

  std::vector<std::vector<uint64_t>> Draw() {
    std::vector<std::vector<uint64_t>> keys;
    for (Zipf& zipf : zipfs_) keys.push_back(DrawUniqueKeys(&zipf, sizes_.keys));
    return keys;
  }

  static std::vector<TableKeys> KeysOf(const std::vector<std::vector<uint64_t>>& keys) {
    std::vector<TableKeys> all;
    for (uint32_t t = 0; t < kTables; ++t) all.push_back({t, keys[t]});
    return all;
  }

  double Pull(const std::vector<std::vector<uint64_t>>& keys) {
    const double start = NowSeconds();
    std::vector<TablePull> pulls;
    for (uint32_t t = 0; t < kTables; ++t) {
      pulls.push_back({.table = t, .keys = keys[t], .rows = rows_out_});
    }
    CheckOk(store_->Pull(pulls, Soon()));
    return NowSeconds() - start;
  }

  double Push(const std::vector<std::vector<uint64_t>>& keys) {
    const double start = NowSeconds();
    std::vector<TablePush> pushes;
    for (uint32_t t = 0; t < kTables; ++t) {
      pushes.push_back({t, keys[t], std::span(grads_).first(sizes_.keys * sizes_.dim)});
    }
    CheckOk(store_->Push(step_, pushes, Soon()));
    return NowSeconds() - start;
  }

  void DropCache() const {
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (!entry.is_regular_file()) continue;
      const int fd = open(entry.path().c_str(), O_RDONLY);
      if (fd < 0) continue;  // compacted away meanwhile
      posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      close(fd);
    }
  }

  const Sizes sizes_;
  const fs::path folder_;
  const uint64_t rows_;
  std::unique_ptr<LocalStore> store_;
  std::vector<Zipf> zipfs_;
  std::vector<std::vector<uint64_t>> next_;
  std::vector<float> grads_;
  std::vector<float> rows_out_;
  int64_t step_ = 1;
};

struct Series {
  const char* name;
  Training* training;
  bool hints;
  std::vector<double> rate = {}, cpu = {}, wait = {}, hit = {};
};

void Measure(const Sizes& sizes, double times, const fs::path& folder, BenchReport* report) {
  const uint64_t row = sizes.dim * sizeof(float) + 12 + 20;  // weights, head, index: about
  const auto rows =
      static_cast<uint64_t>(times * static_cast<double>(sizes.ram_mb << 20)) / (row * kTables);
  Training in_ram(sizes, rows, rows * kTables * row * 2 + (uint64_t{64} << 20), folder / "ram");
  Training cold(sizes, rows, sizes.ram_mb << 20, folder / "cold");
  std::vector<Series> all = {{"all in RAM", &in_ram, true},
                             {"cold, hints", &cold, true},
                             {"cold, no hints", &cold, false}};
  for (Series& series : all) series.training->Round(series.hints);  // warm up
  for (int round = 0; round < sizes.rounds; ++round) {
    for (Series& series : all) {
      const Training::Figures figures = series.training->Round(series.hints);
      series.rate.push_back(figures.steps_per_s);
      series.cpu.push_back(figures.cpu_ms_per_step);
      series.wait.push_back(figures.wait_ms);
      series.hit.push_back(figures.hit_rate);
    }
  }
  const double best = Median(all[0].rate);
  for (const Series& series : all) {
    const double rate = Median(series.rate);
    std::cout << fmt::format(
                     "{:>6.0f}x {:>10}  {:<16}{:>9.1f}{:>9.2f}{:>12.2f}{:>12.2f}{:>10.3f}\n", times,
                     rows * kTables, series.name, rate, rate / best, Median(series.cpu),
                     Median(series.wait), Median(series.hit))
              << std::flush;
    report->Add({{"times_ram", times},
                 {"rows", rows * kTables},
                 {"side", series.name},
                 {"steps_per_s", rate},
                 {"of_all_in_ram", rate / best},
                 {"cpu_ms_per_step", Median(series.cpu)},
                 {"wait_ms_per_step", Median(series.wait)},
                 {"hot_hit_rate", Median(series.hit)},
                 {"drop_cache", sizes.drop_cache}});
  }
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  BenchReport report(
      "bench_cold",
      fmt::format(
          "RAM budget {} MiB; {} tables of dim {}, {} unique keys each per step, Zipf {}; {} "
          "ms of compute per step; {} rounds of {} s each, sides in turn; medians; page "
          "cache {}",
          sizes.ram_mb, kTables, sizes.dim, sizes.keys, sizes.zipf, sizes.compute_ms, sizes.rounds,
          sizes.round_s, sizes.drop_cache ? "dropped before rounds" : "warm"),
      flags);
  const fs::path folder = fs::temp_directory_path() / fmt::format("bench-cold-{}", getpid());
  std::cout << fmt::format("\n{:>7} {:>10}  {:<16}{:>9}{:>9}{:>12}{:>12}{:>10}\n", "table", "rows",
                           "side", "steps/s", "of RAM", "CPU ms/step", "wait ms", "hot hits");
  for (const double times : sizes.times) Measure(sizes, times, folder, &report);
  fs::remove_all(folder);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("How fast does a table train that does not fit into RAM?");
  flags.AddTo(&app);
  app.add_option("--ram-mb", sizes.ram_mb)->capture_default_str();
  app.add_option("--times", sizes.times, "Rows, in multiples of what the budget holds")
      ->capture_default_str();
  app.add_option("--dim", sizes.dim)->capture_default_str();
  app.add_option("--keys", sizes.keys, "Unique keys per table and step")->capture_default_str();
  app.add_option("--zipf", sizes.zipf)->capture_default_str();
  app.add_option("--compute-ms", sizes.compute_ms)->capture_default_str();
  app.add_option("--round-s", sizes.round_s)->capture_default_str();
  app.add_option("--rounds", sizes.rounds)->capture_default_str();
  app.add_flag("--drop-cache", sizes.drop_cache, "Forget the files' pages before each round");
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes.ram_mb = 1;
    sizes.times = {1, 4};
    sizes.keys = 128;
    sizes.compute_ms = 1;
    sizes.round_s = 0.05;
    sizes.rounds = 1;
  }
  return savior::Run(sizes, flags);
}
