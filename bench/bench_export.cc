// What does an export cost, and how large is a delta?
//
// A short run's commit whose item table has been filled up to --rows rows; then a commit at which
// 1% of them have changed.
//
//   full    the item table's bytes per second of wall and CPU time, as ExportBundle writes all of
//   the
//           bundle (reading and checking the commit, tables, golden requests, digests, fsync)
//   disk    the same bytes written and synced by a plain program: the limit
//   delta   its tables' bytes against the full bundle's
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "bench/harness.h"
#include "bench/training_jobs.h"
#include "common/files.h"
#include "launcher/bundle_export.h"
#include "launcher/commit.h"
#include "launcher/inspected_commit.h"
#include "launcher/run_commands.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Sizes {
  uint64_t rows = 1'000'000;
  int64_t rounds = 3;
  size_t threads = 0;  // ExportOptions'
  std::string precision = "float32";
};

constexpr uint64_t kSlice = 8192;  // rows per push

// Pushes to rows [0, rows) of the item table, every `every`-th, keys spread.
void Push(LocalStore& store, int64_t step, uint64_t rows, uint64_t every) {
  std::vector<uint64_t> keys;
  const uint32_t dim = store.tables()[kItemTable].dim;
  for (uint64_t row = 0; row < rows; row += every) {
    keys.push_back(Mix(row));
    if (keys.size() < kSlice && row + every < rows) continue;
    std::vector<float> grads(keys.size() * dim);
    for (size_t i = 0; i < grads.size(); ++i) {
      grads[i] = 1e-3f * static_cast<float>(i % 17 + static_cast<size_t>(step % 3));
    }
    const TablePush push = {kItemTable, keys, grads};
    CheckOk(store.Push(step, {&push, 1}, InspectDeadline()));
    keys.clear();
  }
}

// A commit at `step`: that of `from` with more or other item rows.
Commit Grow(const Commit& from, const fs::path& live, int64_t step, uint64_t rows, uint64_t every) {
  auto config = LoadConfig((from.folder / kResolvedFile).string(), {});
  CheckOk(config.status());
  auto store = LocalStore::Open({.tables = from.manifest.tables,
                                 .shards = from.manifest.shards,
                                 .ram_budget_bytes = uint64_t{1} << 30,
                                 .folder = live,
                                 .seed = static_cast<uint64_t>(config->seed),
                                 .restore_from = from.folder});
  CheckOk(store.status());
  Push(**store, step, rows, every);
  CommitManifest manifest = from.manifest;
  manifest.step = step;
  auto commit = WriteCommit(from.folder.parent_path(), manifest, [&](const fs::path& part) {
    for (const char* file : {kResolvedFile, kDenseFile, kEncoderFile, kCodebookFile}) {
      SAVIOR_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(from.folder / file));
      SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(part / file, bytes));
    }
    return (*store)->Checkpoint(part, InspectDeadline());
  });
  CheckOk(commit.status());
  return *commit;
}

uint64_t TableBytes(const Bundle& bundle) {
  uint64_t bytes = 0;
  for (const SealedFile& file : bundle.manifest.files) {
    // What a delta leaves out is not counted in either.
    if (file.path.starts_with("tables/") && file.path != TableFileName(kAlignedTable)) {
      bytes += file.bytes;
    }
  }
  return bytes;
}

double WriteSeconds(const fs::path& path, uint64_t bytes) {
  const std::string text(bytes, 'x');
  const double start = NowSeconds();
  CheckOk(WriteFileAtomically(path, text));
  const double seconds = NowSeconds() - start;
  fs::remove(path);
  return seconds;
}

int Run(const Sizes& sizes, const BenchFlags& flags) {
  BenchReport report("bench_export",
                     fmt::format("commits with {} item rows; medians of {} exports ({}), each "
                                 "beside a plain write of the same bytes",
                                 sizes.rows, sizes.rounds, sizes.precision),
                     flags);
  const fs::path folder = fs::temp_directory_path() / fmt::format("savior-export-{}", getpid());
  fs::create_directories(folder);
  Config config = TrainingDataSets(folder, /*complete_journey=*/"", /*tiny=*/true).front().config;
  config.run.dir = (folder / "run").string();
  config.train.max_steps = 5;
  config.commit.keep = 10;
  std::ostringstream quiet;
  CheckOk(Train(config, {}, quiet).status());
  auto first = FindCommit(config.run.dir);
  CheckOk(first.status());
  const Commit grown = Grow(*first, folder / "live", 1000, sizes.rows, 1);
  const Commit changed = Grow(grown, folder / "live2", 2000, sizes.rows, 100);

  const auto precision = PrecisionNamed(sizes.precision);
  CheckOk(precision.status());
  std::vector<double> full_mb_s, cpu_mb_s, disk_mb_s;
  fs::path bundles;
  uint64_t bytes = 0;
  for (int64_t round = 0; round < sizes.rounds; ++round) {
    bundles = folder / fmt::format("bundles-{}", round);
    const double start = NowSeconds(), cpu = CpuSecondsOf();
    auto bundle = ExportBundle({.from = grown.folder,
                                .out = bundles,
                                .precision = *precision,
                                .golden = 4,
                                .threads = sizes.threads});
    CheckOk(bundle.status());
    const double seconds = NowSeconds() - start;
    bytes = TableBytes(*bundle);
    const double mb = static_cast<double>(bytes) / 1e6;
    full_mb_s.push_back(mb / seconds);
    cpu_mb_s.push_back(mb / (CpuSecondsOf() - cpu));
    disk_mb_s.push_back(mb / WriteSeconds(folder / "plain", bytes));
  }
  auto delta = ExportBundle({.from = changed.folder, .out = bundles, .since = 1000, .golden = 4});
  CheckOk(delta.status());
  const double share = static_cast<double>(TableBytes(*delta)) / static_cast<double>(bytes);
  fmt::print(
      "full bundle: {:.0f} MB of tables, {:.0f} MB/s ({:.0f} per CPU-s), the disk alone {:.0f} "
      "MB/s: "
      "{:.0f}%\ndelta after 1% of the item rows changed: {:.2f}% of the full tables\n",
      static_cast<double>(bytes) / 1e6, Median(full_mb_s), Median(cpu_mb_s), Median(disk_mb_s),
      100 * Median(full_mb_s) / Median(disk_mb_s), 100 * share);
  report.Add({{"rows", sizes.rows},
              {"precision", sizes.precision},
              {"threads", sizes.threads},
              {"table_bytes", bytes},
              {"full_mb_per_s", Median(full_mb_s)},
              {"full_mb_per_cpu_s", Median(cpu_mb_s)},
              {"disk_mb_per_s", Median(disk_mb_s)},
              {"delta_share", share}});
  fs::remove_all(folder);
  return report.Finish();
}

}  // namespace
}  // namespace savior

int main(int argc, char** argv) {
  savior::Sizes sizes;
  savior::BenchFlags flags;
  CLI::App app("What does an export cost, and how large is a delta?");
  flags.AddTo(&app);
  app.add_option("--rows", sizes.rows, "Of the item table")->capture_default_str();
  app.add_option("--rounds", sizes.rounds)->capture_default_str();
  app.add_option("--threads", sizes.threads, "That read rows; 0: one for each core");
  app.add_option("--precision", sizes.precision, "Of the full bundle's rows")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (flags.smoke) sizes = {.rows = 5000, .rounds = 1};
  return savior::Run(sizes, flags);
}
