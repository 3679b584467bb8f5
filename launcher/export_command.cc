#include "launcher/export_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <utility>

#include "launcher/bundle_export.h"

namespace savior {
namespace {

void Print(const Bundle& bundle, std::ostream& out) {
  const BundleManifest& m = bundle.manifest;
  const std::string kind =
      m.base ? fmt::format("delta {} since {}", m.sequence, BundleName(m.base->step))
             : std::string("full bundle");
  out << fmt::format("{}: {}, {}\n", bundle.folder.string(), kind, NameOf(m.precision));
  uint64_t bytes = 0;
  for (const SealedFile& file : m.files) bytes += file.bytes;
  for (const BundleManifest::Table& table : m.tables) {
    out << fmt::format(
        "  {:<16} {:>10} rows{}\n", table.name, table.rows,
        m.base ? fmt::format(" changed or new, {} gone, of {}", table.gone, table.total) : "");
  }
  out << fmt::format("  {:.1f} MB in {} files\n", static_cast<double>(bytes) / 1e6, m.files.size());
}

absl::Status RunVerify(const std::string& dir, const std::string& name, Digests digests,
                       std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const Verified v, VerifyBundle(dir, name, digests));
  out << fmt::format(
      "{}/{}: whole. {} rows in order; {} golden requests ({} candidates): scores differ from the "
      "live model's by {:.1e} at most ({:.0e} allowed); ",
      dir, name, v.rows, v.parity.requests, v.parity.candidates, v.parity.max_difference,
      v.tolerance);
  if (v.parity.auc && v.parity.live_auc) {
    out << fmt::format("AUC of their clicks {:.3f} (live {:.3f}); ", 100 * *v.parity.auc,
                       100 * *v.parity.live_auc);
  }
  out << (v.rows_compared > 0
              ? fmt::format("{} sampled rows equal the commit's\n", v.rows_compared)
              : "its commit is no longer there, so its rows were not compared with it\n");
  return absl::OkStatus();
}

}  // namespace

void AddExport(CLI::App& app, ExportArguments& a) {
  CLI::App* command =
      app.add_subcommand("export", "Commit -> serving bundle: tables, ONNX, TorchScript, proof");
  command->footer(
      "Examples:\n"
      "  savior export runs/quickstart --out bundles\n"
      "  savior export runs/quickstart --out bundles --since 2578     what changed since that "
      "step\n"
      "  savior export --verify bundles                                prove the current one\n"
      "  savior export --merge bundles --out full                      deltas -> a full bundle\n"
      "What is in a bundle, and who can serve it: docs/serving.md");
  command
      ->add_option("path", a.path,
                   "Run folder (its newest whole commit) or commit folder; with --verify and "
                   "--merge the folder of bundles")
      ->required();
  command->add_option("--out", a.out, "Folder of bundles; gets <step>/ and the link current");
  command->add_option("--since", a.since,
                      "Only what differs from the bundle of this step, which is in --out");
  command->add_option(
      "--precision", a.precision,
      "Of rows: float32, float16 or int8 (a scale per row); a delta has its base's");
  command->add_flag("--hps", a.hps, "Also tables for HugeCTR's HPS (hps/)");
  command->add_flag("--triton", a.triton, "Also a model repository for Triton (triton/)");
  command->add_option("--golden", a.golden, "Requests that carry the live model's scores")
      ->check(CLI::Range(1, 1'000'000));
  command
      ->add_option("--keep", a.keep,
                   "Then delete bundles of --out, all but this many full ones and their deltas")
      ->check(CLI::Range(1, 1'000'000));
  command->add_flag("--verify", a.verify, "Check digests, rows and scores of a bundle");
  command->add_flag("--merge", a.merge, "Write a delta and all it is based on as a full bundle");
  command->add_option("--bundle", a.bundle, "Of --verify and --merge: this one, not the current");
}

absl::Status RunExport(const ExportArguments& a, std::ostream& out) {
  if (a.verify && a.merge) {
    return absl::InvalidArgumentError("--verify and --merge: one at a time");
  }
  if (a.verify || a.merge) {
    std::string name = a.bundle;
    if (name.empty()) {
      SAVIOR_ASSIGN_OR_RETURN(name, CurrentBundle(a.path));
    }
    if (a.verify) return RunVerify(a.path, name, Digests::kAll, out);
    if (a.out.empty()) return absl::InvalidArgumentError("--merge needs --out: another folder");
    SAVIOR_ASSIGN_OR_RETURN(const Bundle bundle, MergeBundle(a.path, name, a.out));
    Print(bundle, out);
    return absl::OkStatus();
  }
  if (a.out.empty()) return absl::InvalidArgumentError("savior export needs --out: where to");
  ExportOptions options{.from = a.path,
                        .out = a.out,
                        .since = a.since,
                        .hps = a.hps,
                        .triton = a.triton,
                        .golden = a.golden};
  SAVIOR_ASSIGN_OR_RETURN(options.precision, PrecisionNamed(a.precision));
  SAVIOR_ASSIGN_OR_RETURN(const Bundle bundle, ExportBundle(options));
  Print(bundle, out);
  SAVIOR_RETURN_IF_ERROR(RunVerify(a.out, bundle.version(), Digests::kNewest, out));
  if (a.keep > 0) SAVIOR_RETURN_IF_ERROR(KeepNewestChains(a.out, a.keep));
  out << fmt::format("serve it: savior serve {}\n", a.out);
  return absl::OkStatus();
}

}  // namespace savior
