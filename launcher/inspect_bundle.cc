// `savior inspect bundle`: what a bundle is, what is in it, and what it is based on.

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "launcher/inspect.h"
#include "serving/bundle.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

struct Located {
  fs::path dir;  // of bundles
  std::string name;
};

// A bundle's own folder, or a folder of bundles.
absl::StatusOr<Located> Locate(const fs::path& path) {
  std::error_code error;
  const fs::path plain = (path / "").lexically_normal().parent_path();
  if (fs::exists(plain / kManifestFile, error)) {
    // Through links: the chain's bases lie beside the folder itself.
    const fs::path real = fs::canonical(plain, error);
    if (error) return absl::NotFoundError(fmt::format("{}: {}", path.string(), error.message()));
    return Located{real.parent_path(), real.filename().string()};
  }
  SAVIOR_ASSIGN_OR_RETURN(std::string name, CurrentBundle(plain));
  return Located{plain, std::move(name)};
}

std::string KindOf(const BundleManifest& m) {
  if (!m.base) return "full bundle";
  return fmt::format("delta {} since {}", m.sequence, BundleName(m.base->step));
}

void PrintMetrics(const std::string& text, std::ostream& out) {
  const auto metrics = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!metrics.is_object() || !metrics.contains("ctr")) {
    out << "not evaluated at this step\n";
    return;
  }
  out << "evaluated by its run, CTR AUC:";
  for (const auto& [bucket, values] : metrics["ctr"].items()) {
    if (values.is_object() && values.contains("auc") && values["auc"].is_number()) {
      out << fmt::format(" {} {:.2f}", bucket, 100 * values["auc"].get<double>());
    }
  }
  out << "\n";
}

void PrintBundle(const Bundle& bundle, std::ostream& out) {
  const BundleManifest& m = bundle.manifest;
  const auto or_none = [](const std::string& version) {
    return version.empty() ? "none" : version;
  };
  out << fmt::format("{}\nstep {}, {}, {}, digest {}\nmade of {}\nencoder {}, codebook {}\n",
                     bundle.folder.string(), m.step, KindOf(m), NameOf(m.precision), bundle.digest,
                     m.commit, or_none(m.encoder_version), or_none(m.codebook_version));
  PrintMetrics(m.metrics, out);
  std::map<std::string, uint64_t> bytes;
  uint64_t total = 0;
  for (const SealedFile& file : m.files) {
    bytes[file.path] = file.bytes;
    total += file.bytes;
  }
  out << fmt::format("\n{:<16} {:>12} {:>12} {:>12} {:>12}\n", "table", "rows", "in this file",
                     "gone", "bytes");
  for (const BundleManifest::Table& t : m.tables) {
    out << fmt::format("{:<16} {:>12} {:>12} {:>12} {:>12}\n", t.name, t.total, t.rows, t.gone,
                       SizeText(bytes[TableFileName(t.name)]));
  }
  out << fmt::format("\n{:<40} {:>12}\n", "file", "bytes");
  for (const SealedFile& file : m.files) {
    if (!file.path.starts_with("tables/")) {
      out << fmt::format("{:<40} {:>12}\n", file.path, file.bytes);
    }
  }
  out << fmt::format("{:<40} {:>12}  {}\n", fmt::format("{} files, tables too", m.files.size()),
                     total, SizeText(total));
}

}  // namespace

absl::Status InspectBundle(const InspectArguments& arguments, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const Located at, Locate(arguments.path));
  SAVIOR_ASSIGN_OR_RETURN(const BundleChain chain, OpenChain(at.dir, at.name, arguments.verify));
  PrintBundle(chain.newest(), out);
  if (chain.bundles.size() > 1) {
    out << "\nbased on";
    for (size_t b = chain.bundles.size() - 1; b-- > 0;) {
      out << fmt::format(" {} ({})", chain.bundles[b].version(), KindOf(chain.bundles[b].manifest));
    }
    out << "\n";
  }
  if (arguments.verify) out << "\nevery digest holds\n";
  return absl::OkStatus();
}

}  // namespace savior
