#include "launcher/inspect.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>
#include <vector>

#include "launcher/commit.h"
#include "launcher/inspected_commit.h"
#include "ps/row.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostUpdated = 5;  // rows shown of a table
constexpr size_t kWeightsPerLine = 8;

const char* NameOf(TableKind kind) {
  switch (kind) {
    case TableKind::kId:
      return "id";
    case TableKind::kAlign:
      return "align";
    case TableKind::kFrozen:
      return "frozen";
  }
  return "unknown";
}

const char* NameOf(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::kNone:
      return "none";
    case OptimizerKind::kSgd:
      return "sgd";
    case OptimizerKind::kAdagrad:
      return "adagrad";
    case OptimizerKind::kRowwiseAdagrad:
      return "rowwise_adagrad";
    case OptimizerKind::kAdam:
      return "adam";
    case OptimizerKind::kFtrl:
      return "ftrl";
  }
  return "unknown";
}

void PrintCommit(const Commit& commit, std::ostream& out) {
  const CommitManifest& m = commit.manifest;
  out << fmt::format("{}\nstep {}, {} impressions trained on, {} shard{}, training log {}\n\n",
                     commit.folder.string(), m.step, m.samples, m.shards, m.shards == 1 ? "" : "s",
                     m.log_fingerprint);
  out << fmt::format("{:<16} {:>4}  {:<7} {:<16} {:>8}\n", "table", "dim", "kind", "optimizer",
                     "lr");
  for (const TableSpec& table : m.tables) {
    const bool learned = table.optimizer.kind != OptimizerKind::kNone;
    out << fmt::format("{:<16} {:>4}  {:<7} {:<16} {:>8}\n", table.name, table.dim,
                       NameOf(table.kind), NameOf(table.optimizer.kind),
                       learned ? fmt::format("{:.6g}", table.optimizer.lr) : "-");
  }
  uint64_t total = 0;
  out << fmt::format("\n{:<40} {:>12}\n", "file", "bytes");
  for (const SealedFile& file : m.files) {
    out << fmt::format("{:<40} {:>12}\n", file.path, file.bytes);
    total += file.bytes;
  }
  out << fmt::format("{:<40} {:>12}  {}\n", fmt::format("{} files", m.files.size()), total,
                     SizeText(total));
}

// Every byte of the commit at `path`, or of all commits of the run at `path`; a line each.
absl::Status Verify(const fs::path& path, std::ostream& out) {
  std::error_code error;
  const bool run = fs::is_directory(path / "commits", error);
  const std::vector<fs::path> folders = run ? ListCommits(path / "commits") : std::vector{path};
  absl::Status damage;
  for (const fs::path& folder : folders) {
    const absl::Status status = OpenCommit(folder, /*digests=*/true).status();
    out << fmt::format("{}: {}\n", folder.string(), status.ok() ? "every digest holds" : "DAMAGED");
    damage.Update(status);
  }
  return damage;
}

absl::Status InspectCommit(const InspectArguments& arguments, std::ostream& out) {
  absl::Status damage;
  absl::StatusOr<Commit> commit = FindCommit(arguments.path);
  if (absl::IsNotFound(commit.status())) return commit.status();
  if (commit.ok()) PrintCommit(*commit, out);
  if (arguments.verify) {
    out << "\n";
    damage = Verify(arguments.path, out);
  }
  damage.Update(commit.status());
  return damage;
}

// What all rows of a table say together.
struct TableFigures {
  struct Used {
    uint32_t updates;
    uint64_t key;
    int64_t last_step;
  };
  uint64_t rows = 0, updates = 0;
  int64_t last_step = 0;
  std::vector<Used> most_updated;  // descending, ties by key; at most kMostUpdated

  void Add(const StoredRow& row) {
    ++rows;
    updates += row.updates;
    last_step = std::max(last_step, row.last_step);
    const auto before = [](const Used& a, const Used& b) {
      return a.updates != b.updates ? a.updates > b.updates : a.key < b.key;
    };
    const Used used = {row.updates, row.key, row.last_step};
    most_updated.insert(std::ranges::upper_bound(most_updated, used, before), used);
    if (most_updated.size() > kMostUpdated) most_updated.pop_back();
  }
};

absl::Status PrintTables(InspectedCommit& inspected, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const StoreStats store, inspected.store().Stats(InspectDeadline()));
  const std::vector<TableStats>& stats = store.tables;
  out << fmt::format("{:<16} {:<7} {:>4} {:>12} {:>12}\n", "table", "kind", "dim", "rows",
                     "in RAM");
  uint64_t rows = 0, bytes = 0;
  for (size_t t = 0; t < stats.size(); ++t) {
    const TableSpec& spec = inspected.commit().manifest.tables[t];
    const uint64_t size = stats[t].rows * RowLayout(spec).bytes();
    out << fmt::format("{:<16} {:<7} {:>4} {:>12} {:>12}\n", spec.name, NameOf(spec.kind), spec.dim,
                       stats[t].rows, SizeText(size));
    rows += stats[t].rows;
    bytes += size;
  }
  out << fmt::format("{:<16} {:<7} {:>4} {:>12} {:>12}\n", "all", "", "", rows, SizeText(bytes));
  return absl::OkStatus();
}

absl::Status PrintTable(InspectedCommit& inspected, uint32_t table, std::ostream& out) {
  const TableSpec& spec = inspected.commit().manifest.tables[table];
  TableFigures figures;
  const auto add = [&figures](const StoredRow& row) {
    figures.Add(row);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(inspected.store().ForEachRow(table, add, InspectDeadline()));
  const RowLayout layout(spec);
  out << fmt::format(
      "table {}: {} rows of {} weights and {} floats of optimizer state ({}, {}), {} in RAM\n",
      spec.name, figures.rows, spec.dim, layout.state_floats(), NameOf(spec.kind),
      NameOf(spec.optimizer.kind), SizeText(figures.rows * layout.bytes()));
  if (figures.rows == 0) return absl::OkStatus();
  out << fmt::format(
      "{} updates, {:.1f} per row; the last at step {}\nmost updated:\n", figures.updates,
      static_cast<double>(figures.updates) / static_cast<double>(figures.rows), figures.last_step);
  for (const TableFigures::Used& used : figures.most_updated) {
    out << fmt::format("  key {:<20} {:>8} updates, last at step {}\n", used.key, used.updates,
                       used.last_step);
  }
  return absl::OkStatus();
}

void PrintFloats(const char* what, std::span<const float> values, std::ostream& out) {
  if (values.empty()) return;
  out << what;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % kWeightsPerLine == 0) out << "\n ";
    out << fmt::format(" {:>11.5g}", values[i]);
  }
  out << "\n";
}

absl::Status PrintRow(InspectedCommit& inspected, uint32_t table, uint64_t key, std::ostream& out) {
  const TableSpec& spec = inspected.commit().manifest.tables[table];
  // A pull finds out at once whether the row exists; its last step and state only a walk shows.
  std::vector<float> weights(spec.dim);
  uint32_t updates = 0;
  const TablePull pull = {table, {&key, 1}, weights, {&updates, 1}};
  SAVIOR_RETURN_IF_ERROR(inspected.store().Pull({&pull, 1}, InspectDeadline()));
  if (updates == 0) {
    return absl::NotFoundError(
        fmt::format("table {}: no row with key {}: it was never {}", spec.name, key,
                    spec.kind == TableKind::kFrozen ? "written" : "updated"));
  }
  const auto print = [&](const StoredRow& row) {
    if (row.key != key) return absl::OkStatus();
    out << fmt::format("table {}, key {}: {} updates, last at step {}\n", spec.name, key,
                       row.updates, row.last_step);
    PrintFloats("weights", row.weights, out);
    PrintFloats("optimizer state", row.state, out);
    return absl::CancelledError();  // found: end the walk
  };
  const absl::Status walked = inspected.store().ForEachRow(table, print, InspectDeadline());
  return absl::IsCancelled(walked) ? absl::OkStatus() : walked;
}

absl::Status InspectTable(const InspectArguments& arguments, std::ostream& out) {
  if (arguments.key && arguments.table.empty()) {
    return absl::InvalidArgumentError("--key needs the name of a table");
  }
  SAVIOR_ASSIGN_OR_RETURN(const auto inspected, InspectedCommit::Open(arguments.path));
  if (arguments.table.empty()) return PrintTables(*inspected, out);
  SAVIOR_ASSIGN_OR_RETURN(const uint32_t table, inspected->TableNamed(arguments.table));
  if (arguments.key) return PrintRow(*inspected, table, *arguments.key, out);
  return PrintTable(*inspected, table, out);
}

CLI::App* AddWhat(CLI::App* inspect, const std::string& what, const std::string& doc,
                  InspectArguments& arguments,
                  const std::string& path = "A commit folder, or a run folder: its newest commit") {
  CLI::App* command = inspect->add_subcommand(what, doc);
  command->callback([what, &arguments] { arguments.what = what; });
  command->add_option("path", arguments.path, path)->required();
  return command;
}

}  // namespace

std::string SizeText(uint64_t bytes) {
  const auto amount = static_cast<double>(bytes);
  if (bytes < 1024) return fmt::format("{} B", bytes);
  if (bytes < (uint64_t{1} << 20)) return fmt::format("{:.1f} KiB", amount / 1024);
  if (bytes < (uint64_t{1} << 30)) return fmt::format("{:.1f} MiB", amount / (1 << 20));
  return fmt::format("{:.2f} GiB", amount / (1 << 30));
}

void AddInspect(CLI::App& app, InspectArguments& arguments) {
  CLI::App* inspect =
      app.add_subcommand("inspect", "Looks into commits, tables, codebooks and bundles");
  inspect->require_subcommand(1);
  inspect->footer(
      "Examples:\n"
      "  savior inspect commit runs/quickstart --verify\n"
      "  savior inspect table runs/quickstart\n"
      "  savior inspect table runs/quickstart item --key 1082185\n"
      "  savior inspect codebook runs/quickstart --top 5\n"
      "  savior inspect bundle bundles --verify\n"
      "  savior inspect diff runs/a/commits/commit-000000000100 runs/a\n"
      "  savior inspect digest runs/a");
  CLI::App* commit = AddWhat(inspect, "commit", "Step, tables, files and sizes", arguments);
  commit->add_flag("--verify", arguments.verify,
                   "Check every digest (of a run folder: of all its commits)");
  CLI::App* table = AddWhat(inspect, "table", "Rows, bytes and updates; one row by key", arguments);
  table->add_option("table", arguments.table, "A table's name; none: all tables, a line each");
  table->add_option("--key", arguments.key, "Show the row of this key");
  CLI::App* codebook =
      AddWhat(inspect, "codebook", "Use of the codes, with example titles", arguments);
  codebook->add_option("--top", arguments.top, "Most used codes shown per level")
      ->check(CLI::Range(int64_t{0}, int64_t{4096}))
      ->capture_default_str();
  CLI::App* bundle = AddWhat(inspect, "bundle", "Of savior export: tables, versions, files",
                             arguments, "A bundle, or a folder of bundles: its current one");
  bundle->add_flag("--verify", arguments.verify, "Check every digest, of what it is based on, too");
  CLI::App* diff = AddWhat(inspect, "diff", "Rows added, removed and changed between two commits",
                           arguments, "The earlier one: a commit folder, or a run folder");
  diff->add_option("other", arguments.other, "The later one, likewise")->required();
  CLI::App* digest =
      AddWhat(inspect, "digest", "Rows, updates and a digest of every table", arguments);
  for (CLI::App* command : {diff, digest}) {
    command->add_flag("--json", arguments.json, "As a JSON object, for programs");
  }
}

absl::Status Inspect(const InspectArguments& arguments, std::ostream& out) {
  if (arguments.what == "bundle") return InspectBundle(arguments, out);
  if (arguments.what == "diff") return InspectDiff(arguments, out);
  if (arguments.what == "digest") return InspectDigest(arguments, out);
  if (arguments.what == "commit") return InspectCommit(arguments, out);
  if (arguments.what == "table") return InspectTable(arguments, out);
  return InspectCodebook(arguments.path, arguments.top, out);
}

}  // namespace savior
