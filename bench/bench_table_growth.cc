// Does a row cost the same in a large table? Grows one table in RAM from 10^5 to 10^8 rows (as far
// as memory allows) and stops at each power of ten: CPU time per pulled row and per updated row,
// memory per row, and the longest push of 256 new rows while growing. Beside the rows there is some
// moving of index buckets in it, and now and then the first touch of a huge page, which is the
// kernel's and, in a virtual machine, the host's: so it is also given for pushes without one.
//
// Keys are drawn by Zipf 1.05, as in training, from rows that lie anywhere; and uniformly, the
// worst case, where no row is popular and every one is a miss of the TLB and of all caches.
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "bench/harness.h"
#include "common/process.h"
#include "ps/table.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr size_t kGrowBatch = 256;

struct Sizes {
  uint64_t from = 100'000;
  uint64_t until = 100'000'000;
  uint32_t dim = 16;
  size_t batch = 4096;  // >= kGrowBatch
};

int64_t MinorFaults() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_minflt;
}

uint64_t FreeBytes() {
  return static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

class Growth {
 public:
  Growth(const Sizes& sizes, const fs::path& db)
      : sizes_(sizes), cold_(*ColdStore::Open(db, {"t"})), random_(1) {
    const TableSpec spec{.name = "t",
                         .dim = sizes.dim,
                         .kind = TableKind::kAlign,
                         .optimizer = {.kind = OptimizerKind::kRowwiseAdagrad, .lr = 0.01f}};
    const uint64_t all = sizes.until * (RowLayout(spec).bytes() + 32) + (uint64_t{64} << 20);
    table_ = std::make_unique<Table>(spec, 0, 1, 0, cold_.get(), all, all);
    grads_.assign(sizes.batch * sizes.dim, 1e-3f);
    rows_.resize(sizes.batch * sizes.dim);
    keys_.resize(sizes.batch);
    before_ = RssBytes();
  }

  struct Longest {  // push, in ms of CPU time
    double any = 0;
    double without_fault = 0;
  };
  // Returns CPU ns per new row.
  double GrowTo(uint64_t rows, Longest* longest) {
    const uint64_t first = table_->rows();
    *longest = {};
    const double start = CpuSecondsOf();
    while (table_->rows() < rows) {
      // Small, so that the longest says what a growth adds, and not what the rows themselves cost.
      const size_t n = std::min<uint64_t>(kGrowBatch, rows - table_->rows());
      for (size_t i = 0; i < n; ++i) keys_[i] = Mix(table_->rows() + i);
      const double begin = ThreadCpuSeconds();
      const int64_t faults = MinorFaults();
      CheckOk(table_->Push(0, {std::span(keys_).first(n), {}}, grads_.data()));
      const double took = (ThreadCpuSeconds() - begin) * 1e3;
      WorkAhead();
      longest->any = std::max(longest->any, took);
      if (MinorFaults() == faults) longest->without_fault = std::max(longest->without_fault, took);
    }
    const double per_row = (CpuSecondsOf() - start) * 1e9 / static_cast<double>(rows - first);
    while (table_->Maintain()) {  // as a shard does when nobody asks
    }
    return per_row;
  }

  // As a shard does: the next pages are touched by its second thread.
  void WorkAhead() {
    if (std::optional<PageTouch> touch = table_->TouchAhead()) second_.Post(*std::move(touch));
    while (second_.TakeDone().has_value()) {
    }
  }

  // CPU ns per row, the median of some batches; the draw of the keys is not measured.
  template <typename Run>
  double PerRow(double seconds, bool popular, Run run) {
    std::vector<double> costs;
    Zipf zipf(table_->rows(), 1.05, 1);
    for (const double end = NowSeconds() + seconds; NowSeconds() < end || costs.size() < 3;) {
      for (uint64_t& key : keys_) {
        key = Mix(popular ? Mix(zipf.Draw()) % table_->rows() : random_.Below(table_->rows()));
      }
      std::sort(keys_.begin(), keys_.end());
      keys_.erase(std::unique(keys_.begin(), keys_.end()), keys_.end());
      for (size_t i = keys_.size(); i > 1; --i) std::swap(keys_[i - 1], keys_[random_.Below(i)]);
      const double start = CpuSecondsOf();
      run();
      costs.push_back((CpuSecondsOf() - start) * 1e9 / static_cast<double>(keys_.size()));
      keys_.resize(sizes_.batch);
    }
    return Median(costs);
  }
  double PullCost(double seconds, bool popular) {
    return PerRow(seconds, popular, [&] {
      CheckOk(table_->Pull({keys_, {}}, rows_.data(), nullptr));
    });
  }
  double PushCost(double seconds, bool popular) {
    return PerRow(seconds, popular, [&] { CheckOk(table_->Push(1, {keys_, {}}, grads_.data())); });
  }

  double BytesPerRow() const {
    return static_cast<double>(RssBytes() - before_) / static_cast<double>(table_->rows());
  }

 private:
  const Sizes sizes_;
  const std::unique_ptr<ColdStore> cold_;
  std::unique_ptr<Table> table_;
  ColdThread second_{cold_.get(), [] {}};
  std::vector<uint64_t> keys_;
  std::vector<float> grads_;
  std::vector<float> rows_;
  Random random_;
  uint64_t before_ = 0;
};

int Run(Sizes sizes, const BenchFlags& flags) {
  BenchReport report(
      "bench_table_growth",
      fmt::format("one table of dim {} in RAM, rowwise Adagrad; batches of {} keys "
                  "drawn by Zipf 1.05 or uniformly; one thread; medians of CPU ns per row",
                  sizes.dim, sizes.batch),
      flags);
  const uint64_t row = sizes.dim * sizeof(float) + 12 + 24;
  const uint64_t fits = FreeBytes() / 10 * 9 / row;
  if (fits < sizes.until) {
    std::cout << fmt::format("memory for about {} rows only: stops there\n", fits);
    sizes.until = fits;
  }
  const fs::path db = fs::temp_directory_path() / fmt::format("bench-growth-{}", getpid());
  std::cout << fmt::format("\n{:>11}{:>10}{:>10}{:>14}{:>14}{:>12}{:>15}{:>17}\n", "rows",
                           "pull ns", "push ns", "pull, uniform", "push, uniform", "new row ns",
                           "bytes per row", "longest push ms");
  {
    Growth growth(sizes, db);
    for (uint64_t rows = sizes.from; rows <= sizes.until; rows *= 10) {
      Growth::Longest longest;
      const double grow = growth.GrowTo(rows, &longest);
      const double pull = growth.PullCost(flags.seconds * 3, true);
      const double push = growth.PushCost(flags.seconds * 3, true);
      const double pull_any = growth.PullCost(flags.seconds * 3, false);
      const double push_any = growth.PushCost(flags.seconds * 3, false);
      const double bytes = growth.BytesPerRow();
      std::cout << fmt::format(
                       "{:>11}{:>10.1f}{:>10.1f}{:>14.1f}{:>14.1f}{:>12.1f}{:>15.1f}{:>17.2f}\n",
                       rows, pull, push, pull_any, push_any, grow, bytes, longest.any)
                << std::flush;
      report.Add({{"rows", rows},
                  {"pull_ns", pull},
                  {"push_ns", push},
                  {"pull_uniform_ns", pull_any},
                  {"push_uniform_ns", push_any},
                  {"new_row_ns", grow},
                  {"bytes_per_row", bytes},
                  {"longest_push_cpu_ms", longest.any},
                  {"longest_push_without_fault_cpu_ms", longest.without_fault}});
    }
  }
  fs::remove_all(db);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("Does a row cost the same in a large table?");
  flags.AddTo(&app);
  app.add_option("--from", sizes.from, "Rows to begin with")->capture_default_str();
  app.add_option("--until", sizes.until, "Rows to end with; steps of ten")->capture_default_str();
  app.add_option("--dim", sizes.dim)->capture_default_str();
  app.add_option("--batch", sizes.batch)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes.from = 1000;
    sizes.until = 100'000;
  }
  return savior::Run(sizes, flags);
}
