// What does a commit cost those who train? One shard in this process and a client that pulls and
// pushes without a pause; all rows are dirty when a checkpoint begins. Measured: the longest time
// that the client waited while it was written, beside the longest in as much time without; CPU
// seconds and requests lost per checkpoint, from which follows what one a minute costs; bytes that
// a commit adds after few changes, and with RocksDB's merges over many; and how long a start from a
// commit takes.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <set>

#include "bench/harness.h"
#include "common/digest_cache.h"
#include "common/sealed_folder.h"
#include "ps/local_store.h"
#include "ps/restore.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Sizes {
  uint64_t rows = 1'000'000;
  uint64_t restart_rows = 10'000'000;
  int commits = 30;     // with all rows dirty
  int increments = 20;  // with a hundredth of them
  size_t keys = 1024;   // of a request
  double quiet_s = 2;   // without a commit, beside each
  std::string folder;   // of the working files; empty: a temporary one
};

constexpr uint32_t kDim = 16;  // and as many floats of Adagrad's: 128 bytes
constexpr size_t kLoad = 8192;

Deadline Soon() { return DeadlineIn(std::chrono::minutes(10)); }

// Bytes that this process has handed to write() so far.
uint64_t WrittenBytes() {
  std::ifstream io("/proc/self/io");
  std::string name;
  uint64_t value = 0;
  while (io >> name >> value) {
    if (name == "wchar:") return value;
  }
  return 0;
}

uint64_t BytesIn(const fs::path& folder) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) bytes += entry.file_size();
  }
  return bytes;
}

// Of `folder`, less files that `before` has, too.
uint64_t NewBytesIn(const fs::path& folder, const fs::path& before) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    std::error_code error;
    const fs::path other = before / fs::relative(entry.path(), folder);
    if (entry.is_regular_file() && !fs::equivalent(entry.path(), other, error)) {
      bytes += entry.file_size();
    }
  }
  return bytes;
}

// A store of one shard, and a client of it.
class Training {
 public:
  Training(const Sizes& sizes, const fs::path& folder, uint64_t rows, uint64_t ram_bytes)
      : sizes_(sizes), folder_(folder), rows_(rows), grads_(kLoad * kDim, 1e-3f) {
    auto store = LocalStore::Open(
        {.tables = Tables(), .ram_budget_bytes = ram_bytes, .folder = folder / "live"});
    CheckOk(store.status());
    store_ = *std::move(store);
    rows_out_.resize(sizes.keys * kDim);
  }
  static std::vector<TableSpec> Tables() {
    return {{.name = "t",
             .dim = kDim,
             .kind = TableKind::kAlign,
             .optimizer = {.kind = OptimizerKind::kAdagrad, .lr = 0.01f}}};
  }

  // Pushes to every `of`-th row.
  void PushEvery(uint64_t of) {
    std::vector<uint64_t> keys;
    ++step_;
    for (uint64_t row = 0; row < rows_;) {
      keys.clear();
      for (; row < rows_ && keys.size() < kLoad; row += of) keys.push_back(Mix(row));
      Push(keys);
    }
  }
  // A pull and a push of random rows. Returns the longer one's seconds.
  double Step() {
    std::vector<uint64_t> keys(sizes_.keys);
    const uint64_t first = random_();
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = Mix((first + i * 7919) % rows_);
    ++step_;
    const double begin = NowSeconds();
    const TablePull pull{.table = 0, .keys = keys, .rows = rows_out_};
    CheckOk(store_->Pull({&pull, 1}, Soon()));
    const double middle = NowSeconds();
    Push(keys);
    ++steps_;
    return std::max(middle - begin, NowSeconds() - middle);
  }
  uint64_t steps() const { return steps_; }
  void Freeze(int64_t number) {
    const fs::path before = Commit(number - 1);
    CheckOk(store_->Freeze(
        number, {.folder = Commit(number), .base = fs::exists(before) ? before : fs::path()},
        Soon()));
  }
  bool Written(int64_t number) {
    const auto written = store_->CheckpointWritten(number, Soon());
    CheckOk(written.status());
    return *written;
  }
  void Checkpoint(int64_t number) {
    Freeze(number);
    CheckOk(store_->AwaitCheckpoint(number, Soon()));
  }
  fs::path Commit(int64_t number) const { return folder_ / fmt::format("commit-{}", number); }

 private:
  void Push(std::span<const uint64_t> keys) {
    const TablePush push{0, keys, std::span(grads_).first(keys.size() * kDim)};
    CheckOk(store_->Push(step_, {&push, 1}, Soon()));
  }

  const Sizes sizes_;
  const fs::path folder_;
  const uint64_t rows_;
  const std::vector<float> grads_;
  std::vector<float> rows_out_;
  std::unique_ptr<LocalStore> store_;
  Random random_{1};
  int64_t step_ = 0;
  uint64_t steps_ = 0;
};

// Steps for as long as `go` says.
struct Stretch {
  double seconds = 0, cpu_s = 0, longest_s = 0;
  double steps = 0;
};
template <typename Go>
Stretch Run(Training* training, Go go) {
  Stretch stretch;
  const double begin = NowSeconds(), cpu = CpuSecondsOf();
  const uint64_t steps = training->steps();
  while (go(NowSeconds() - begin))
    stretch.longest_s = std::max(stretch.longest_s, training->Step());
  stretch.seconds = NowSeconds() - begin;
  stretch.cpu_s = CpuSecondsOf() - cpu;
  stretch.steps = static_cast<double>(training->steps() - steps);
  return stretch;
}

void MeasurePauses(const Sizes& sizes, const fs::path& folder, BenchReport* report) {
  Training training(sizes, folder, sizes.rows, uint64_t{1} << 30);
  std::vector<double> pauses, freezes, quiet, written, cpu, lost;
  for (int c = 1; c <= sizes.commits; ++c) {
    training.PushEvery(1);  // all rows are dirty
    const Stretch without = Run(&training, [&](double s) { return s < sizes.quiet_s; });
    const double begin = NowSeconds(), cpu_begin = CpuSecondsOf();
    training.Freeze(c);
    const double frozen = NowSeconds() - begin;
    double looked = NowSeconds();
    // A look every 20 ms, as a run's.
    const Stretch with = Run(&training, [&](double) {
      if (NowSeconds() - looked < 0.02) return true;
      looked = NowSeconds();
      return !training.Written(c);
    });
    const double rate = without.steps / without.seconds;
    const double took = NowSeconds() - begin;
    pauses.push_back(1e3 * std::max(frozen, with.longest_s));
    freezes.push_back(1e3 * frozen);
    quiet.push_back(1e3 * without.longest_s);
    written.push_back(took);
    cpu.push_back(CpuSecondsOf() - cpu_begin - with.steps * without.cpu_s / without.steps);
    lost.push_back(took - with.steps / rate);
    fs::remove_all(training.Commit(c - 1));
  }
  const auto row = [](const char* what, const char* unit, const std::vector<double>& values) {
    std::cout << fmt::format("  {:<44} p50 {:>8.2f} {:<3} p99 {:>8.2f} {}\n", what, Median(values),
                             unit, Percentile(values, 0.99), unit);
  };
  std::cout << fmt::format("{} commits of {} dirty rows of 128 B, requests of {} keys\n",
                           sizes.commits, sizes.rows, sizes.keys);
  row("longest wait while a commit is written", "ms", pauses);
  row("  of this, to freeze", "ms", freezes);
  row("longest wait without one", "ms", quiet);
  row("from freeze to written", "s", written);
  row("CPU of a commit", "s", cpu);
  row("training time lost to a commit", "s", lost);
  std::cout << fmt::format("  one commit a minute costs {:.2f} % of the throughput (median)\n",
                           100 * Median(lost) / 60);
  report->Add({{"what", "pauses"},
               {"rows", sizes.rows},
               {"commits", sizes.commits},
               {"pause_ms_p50", Median(pauses)},
               {"pause_ms_p99", Percentile(pauses, 0.99)},
               {"freeze_ms_p50", Median(freezes)},
               {"freeze_ms_p99", Percentile(freezes, 0.99)},
               {"quiet_ms_p50", Median(quiet)},
               {"quiet_ms_p99", Percentile(quiet, 0.99)},
               {"written_s_p50", Median(written)},
               {"cpu_s_p50", Median(cpu)},
               {"lost_s_p50", Median(lost)},
               {"lost_share_once_a_minute", Median(lost) / 60}});
}

void MeasureBytes(const Sizes& sizes, const fs::path& folder, BenchReport* report) {
  Training training(sizes, folder, sizes.rows, uint64_t{1} << 30);
  training.PushEvery(1);
  training.Checkpoint(0);
  const auto full = static_cast<double>(BytesIn(training.Commit(0)));
  std::vector<double> added;
  const auto before = static_cast<double>(WrittenBytes());
  for (int c = 1; c <= sizes.increments; ++c) {
    training.PushEvery(100);
    training.Checkpoint(c);
    added.push_back(static_cast<double>(NewBytesIn(training.Commit(c), training.Commit(c - 1))) /
                    full);
    fs::remove_all(training.Commit(c - 1));
  }
  const double all = static_cast<double>(WrittenBytes()) - before;
  const double each = all / sizes.increments / full;
  std::cout << fmt::format(
      "commits after 1 % of {} rows changed, as a share of a full one ({:.1f} MB)\n"
      "  bytes that a commit adds: the first {:.2f} %, median {:.2f} %, most {:.2f} %\n"
      "  bytes written with RocksDB's merges, over {} commits: {:.2f} % each\n",
      sizes.rows, full * 1e-6, 100 * added.front(), 100 * Median(added),
      100 * *std::ranges::max_element(added), sizes.increments, 100 * each);
  report->Add({{"what", "bytes"},
               {"rows", sizes.rows},
               {"full_bytes", full},
               {"added_share_first", added.front()},
               {"added_share_median", Median(added)},
               {"added_share_most", *std::ranges::max_element(added)},
               {"written_share_amortised", each}});
}

void MeasureRestart(const Sizes& sizes, const fs::path& folder, BenchReport* report) {
  {
    Training training(sizes, folder, sizes.restart_rows, uint64_t{512} << 20);
    training.PushEvery(1);
    training.Checkpoint(0);
  }
  const fs::path commit = folder / "commit-0";
  const double begin = NowSeconds();
  const auto files = ListFiles(commit);  // as OpenCommit: every byte
  CheckOk(files.status());
  const double verified = NowSeconds();
  auto store = LocalStore::Open({.tables = Training::Tables(),
                                 .ram_budget_bytes = uint64_t{512} << 20,
                                 .folder = folder / "again",
                                 .restore_from = commit});
  CheckOk(store.status());
  const double opened = NowSeconds();
  std::vector<uint64_t> keys(sizes.keys);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = Mix(i * 7919 % sizes.restart_rows);
  std::vector<float> rows(keys.size() * kDim, 1e-3f);
  const TablePull pull{.table = 0, .keys = keys, .rows = rows};
  CheckOk((*store)->Pull({&pull, 1}, Soon()));
  const TablePush push{0, keys, rows};
  CheckOk((*store)->Push(1, {&push, 1}, Soon()));
  const double stepped = NowSeconds();
  std::cout << fmt::format(
      "start from a commit of {} rows, {:.2f} GB, in the page cache\n"
      "  digests {:.2f} s, tables {:.3f} s, first pull and push {:.3f} s: {:.2f} s\n",
      sizes.restart_rows, 1e-9 * static_cast<double>(BytesIn(commit)), verified - begin,
      opened - verified, stepped - opened, stepped - begin);
  report->Add({{"what", "restart"},
               {"rows", sizes.restart_rows},
               {"bytes", BytesIn(commit)},
               {"digests_s", verified - begin},
               {"open_s", opened - verified},
               {"first_step_s", stepped - opened},
               {"all_s", stepped - begin}});
}

int Main(int argc, char** argv) {
  CLI::App app("What does a commit cost those who train?");
  BenchFlags flags;
  flags.AddTo(&app);
  Sizes sizes;
  app.add_option("--rows", sizes.rows, "Rows, all dirty at each commit")->capture_default_str();
  app.add_option("--commits", sizes.commits)->capture_default_str();
  app.add_option("--restart-rows", sizes.restart_rows)->capture_default_str();
  app.add_option("--folder", sizes.folder, "Of the working files; none: a temporary one");
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) {
    sizes = {.rows = 5000,
             .restart_rows = 5000,
             .commits = 2,
             .increments = 5,
             .quiet_s = 0.05,
             .folder = sizes.folder};
  }
  BenchReport report("bench_commit",
                     "a shard in this process, a client that pulls and pushes without a pause",
                     flags);
  const fs::path folder = sizes.folder.empty()
                              ? fs::temp_directory_path() / fmt::format("bench-commit-{}", getpid())
                              : fs::path(sizes.folder);
  for (const auto measure : {MeasurePauses, MeasureBytes, MeasureRestart}) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    measure(sizes, folder, &report);
  }
  fs::remove_all(folder);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) { return savior::Main(argc, argv); }
