// Proves and merges bundles that are there already.

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/files.h"
#include "common/random.h"
#include "launcher/bundle_export.h"
#include "launcher/bundle_tables.h"
#include "launcher/inspected_commit.h"
#include "serving/bundle_model.h"
#include "serving/bundle_scorer.h"
#include "worker/model/codebook.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSampledRows = 1000;  // of every table
constexpr uint64_t kSampleStream = 0x5645;

absl::Status CheckTables(const BundleChain& chain, uint64_t* rows) {
  for (const Bundle& bundle : chain.bundles) {
    for (const BundleManifest::Table& table : bundle.manifest.tables) {
      SAVIOR_ASSIGN_OR_RETURN(const auto file, TableFile::Open(bundle.TablePath(table.name)));
      SAVIOR_RETURN_IF_ERROR(file->CheckOrder());
      if (file->rows() != table.rows || file->gone().size() != table.gone) {
        return absl::DataLossError(fmt::format(
            "{}: {} rows and {} gone, the manifest says {} and {}", file->path().string(),
            file->rows(), file->gone().size(), table.rows, table.gone));
      }
    }
  }
  for (const BundleManifest::Table& table : chain.newest().manifest.tables) {
    SAVIOR_ASSIGN_OR_RETURN(const TableChain whole, chain.Table(table.name));
    uint64_t found = 0;
    for (TableChain::Cursor cursor(&whole); cursor.at(); cursor.Next()) ++found;
    if (found != table.total) {
      return absl::DataLossError(fmt::format("{}: {} rows with all it is based on, not {}",
                                             chain.newest().TablePath(table.name).string(), found,
                                             table.total));
    }
    *rows += found;
  }
  return absl::OkStatus();
}

// What a bundle has of a commit's row, as bytes; how often it was updated, too, is a column behind.
class ExpectedRow {
 public:
  ExpectedRow(const InspectedCommit& commit, uint32_t table, Precision precision)
      : precision_(precision) {
    const Config& config = commit.config();
    dim_ = commit.commit().manifest.tables[table].dim;
    if (table != kContentTable) return;
    precision_ = Precision::kFloat32;
    const ContentLayout layout = ContentLayout::Of(config);
    dim_ = static_cast<uint32_t>(layout.dim);
    from_ = layout.z(commit.codebook_version());
    if (!ArmOf(config.model.arm).uses_codes()) return;
    levels_ = layout.levels;
    codes_ = layout.codes(commit.codebook_version());
  }

  std::vector<std::byte> Of(std::span<const float> row) const {
    std::vector<std::byte> bytes(EncodedBytes(dim_, precision_));
    EncodeRow(row.subspan(from_, dim_), precision_, bytes.data());
    for (const float code : row.subspan(codes_, levels_)) {
      const auto as_column = static_cast<uint16_t>(code);
      const auto more = std::as_bytes(std::span(&as_column, 1));
      bytes.insert(bytes.end(), more.begin(), more.end());
    }
    return bytes;
  }

 private:
  Precision precision_;
  uint32_t dim_ = 0;
  size_t from_ = 0;                // where weights begin
  size_t codes_ = 0, levels_ = 0;  // where they begin, how many they are
};

absl::Status CompareRow(const TableSpec& spec, const TableChain& table, uint64_t key,
                        std::span<const std::byte> expected) {
  const auto place = table.Find(key);
  std::vector<std::byte> found(table.files()[0]->record_bytes());
  if (place) place->file->CopyRecord(place->row, found.data());
  if (place && std::ranges::equal(std::span(found).first(expected.size()), expected)) {
    return absl::OkStatus();
  }
  return absl::DataLossError(fmt::format("table {}, key {}: {}", spec.name, key,
                                         place ? "not the commit's row" : "not in the bundle"));
}

// A sample of the keys of `table`, in the bundle's order.
std::vector<uint64_t> SampleKeys(const TableChain& table, uint64_t total, const std::string& name) {
  Random random(kSampleStream, HashName(name));
  std::vector<uint64_t> places;
  for (size_t i = 0; i < kSampledRows && total > 0; ++i) places.push_back(random.Below(total));
  std::ranges::sort(places);
  std::vector<uint64_t> keys;
  uint64_t at = 0;
  size_t next = 0;
  for (TableChain::Cursor cursor(&table); cursor.at() && next < places.size(); cursor.Next()) {
    if (at++ != places[next]) continue;
    keys.push_back(cursor.at()->key());
    while (next < places.size() && places[next] < at) ++next;
  }
  return keys;
}

// Contents that the commit does not know have no row to be compared with: of these the codes must
// be the codebook's of their z. Arms without codes, or with shuffled ones, have nothing to compare.
class NewContentCheck {
 public:
  static absl::StatusOr<NewContentCheck> Of(const BundleChain& chain, const Config& config) {
    NewContentCheck check;
    if (ArmOf(config.model.arm).shuffled_codes) return check;
    const fs::path path = chain.newest().folder / kCodebookFile;
    std::error_code error;
    if (chain.newest().manifest.new_contents == 0 || !fs::exists(path, error)) return check;
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(path));
    SAVIOR_ASSIGN_OR_RETURN(check.codebook_, LoadCodebook(file));
    return check;
  }

  absl::Status Check(const TableChain& table, uint64_t key) const {
    if (!codebook_) return absl::OkStatus();
    const auto place = table.Find(key);
    std::vector<std::byte> found(table.files()[0]->record_bytes());
    if (place) place->file->CopyRecord(place->row, found.data());
    std::vector<float> z(static_cast<size_t>(codebook_->dim()));
    std::vector<uint16_t> codes(static_cast<size_t>(codebook_->levels()));
    if (found.size() != 4 * z.size() + 2 * codes.size()) {
      return absl::DataLossError("table content: its records are not of this codebook");
    }
    std::memcpy(z.data(), found.data(), 4 * z.size());
    std::memcpy(codes.data(), found.data() + 4 * z.size(), 2 * codes.size());
    const std::vector<int32_t> nearest = codebook_->Quantise(z);
    if (std::ranges::equal(nearest, codes)) return absl::OkStatus();
    return absl::DataLossError(fmt::format(
        "table content, key {}: not in the commit, and its codes are not those of its z", key));
  }

 private:
  std::unique_ptr<Codebook> codebook_;
};

absl::StatusOr<int64_t> CompareRows(const BundleChain& chain) {
  const BundleManifest& manifest = chain.newest().manifest;
  std::error_code error;
  if (!fs::exists(fs::path(manifest.commit) / kManifestFile, error)) return 0;
  SAVIOR_ASSIGN_OR_RETURN(const auto commit, InspectedCommit::Open(manifest.commit));
  if (commit->commit().manifest.step != manifest.step) return 0;
  const fs::path codebook =
      commit->commit().folder / CodebookFileOf(commit->commit().manifest.codebook);
  if (fs::exists(codebook, error)) {
    SAVIOR_ASSIGN_OR_RETURN(const std::string version, DigestFile(codebook));
    if (version != manifest.codebook_version) return 0;  // it was rolled back since
  }
  const std::vector<TableSpec>& specs = commit->store().tables();
  SAVIOR_ASSIGN_OR_RETURN(const NewContentCheck new_contents,
                          NewContentCheck::Of(chain, commit->config()));
  int64_t compared = 0;
  for (const BundleManifest::Table& of : manifest.tables) {
    const auto spec = std::ranges::find(specs, of.name, &TableSpec::name);
    if (spec == specs.end()) continue;  // the catalogue is the log's, z~ follows from the rest
    const auto number = static_cast<uint32_t>(spec - specs.begin());
    const ExpectedRow expected(*commit, number, manifest.precision);
    SAVIOR_ASSIGN_OR_RETURN(const TableChain table, chain.Table(of.name));
    const std::vector<uint64_t> keys = SampleKeys(table, of.total, of.name);
    std::vector<uint64_t> keys_there = keys;
    for (uint64_t& key : keys_there) key = commit->KeyInCommit(number, key);
    std::vector<float> rows(keys.size() * spec->dim);
    std::vector<uint32_t> updates(keys.size());
    const TablePull pull = {number, keys_there, rows, updates};
    SAVIOR_RETURN_IF_ERROR(commit->store().Pull({&pull, 1}, InspectDeadline()));
    for (size_t i = 0; i < keys.size(); ++i) {
      if (updates[i] == 0 && number == kContentTable && manifest.new_contents > 0) {
        SAVIOR_RETURN_IF_ERROR(new_contents.Check(table, keys[i]));
        continue;
      }
      if (updates[i] == 0) {
        return absl::DataLossError(
            fmt::format("table {}, key {}: the commit has no such row", of.name, keys[i]));
      }
      SAVIOR_RETURN_IF_ERROR(CompareRow(
          *spec, table, keys[i], expected.Of(std::span(rows).subspan(i * spec->dim, spec->dim))));
      ++compared;
    }
  }
  return compared;
}

absl::Status MergeTable(const BundleChain& chain, const std::string& name, const fs::path& part,
                        BundleManifest* manifest) {
  SAVIOR_ASSIGN_OR_RETURN(const TableChain table, chain.Table(name));
  SAVIOR_ASSIGN_OR_RETURN(
      const auto writer, TableWriter::Create(part / TableFileName(name), table.columns(), nullptr));
  std::vector<std::byte> record(table.files()[0]->record_bytes());
  for (TableChain::Cursor cursor(&table); cursor.at(); cursor.Next()) {
    cursor.at()->file->CopyRecord(cursor.at()->row, record.data());
    SAVIOR_RETURN_IF_ERROR(writer->Add(cursor.at()->key(), record));
  }
  SAVIOR_ASSIGN_OR_RETURN(const TableWriter::Counts counts, writer->Finish());
  manifest->tables.push_back({name, counts.rows, 0, counts.total});
  return absl::OkStatus();
}

}  // namespace

double Tolerance(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return 1e-5;
    case Precision::kFloat16:
      return 1e-3;
    case Precision::kInt8:
      return 1e-2;
  }
  return 0;
}

absl::StatusOr<Verified> VerifyBundle(const fs::path& dir, const std::string& name,
                                      Digests digests) {
  const bool newest_only = digests == Digests::kNewest;
  SAVIOR_ASSIGN_OR_RETURN(const BundleChain chain, OpenChain(dir, name, !newest_only));
  if (newest_only) SAVIOR_RETURN_IF_ERROR(OpenBundle(dir / name, /*digests=*/true).status());
  Verified verified;
  SAVIOR_RETURN_IF_ERROR(CheckTables(chain, &verified.rows));
  const fs::path golden = chain.newest().folder / kBundleGolden;
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(golden));
  absl::StatusOr<std::vector<GoldenRequest>> requests = ParseGolden(text);
  if (!requests.ok()) return Annotate(requests.status(), golden.string());
  SAVIOR_ASSIGN_OR_RETURN(const auto scorer, ScorerOf(chain));
  SAVIOR_ASSIGN_OR_RETURN(verified.parity, Compare(*scorer, *requests));
  verified.tolerance = Tolerance(chain.newest().manifest.precision);
  if (!(verified.parity.max_difference <= verified.tolerance)) {
    return absl::DataLossError(fmt::format(
        "{}: a score differs from the live model's by {:.2g}; at most {:.2g} is allowed for {}",
        chain.newest().folder.string(), verified.parity.max_difference, verified.tolerance,
        NameOf(chain.newest().manifest.precision)));
  }
  SAVIOR_ASSIGN_OR_RETURN(verified.rows_compared, CompareRows(chain));
  return verified;
}

absl::StatusOr<Bundle> MergeBundle(const fs::path& dir, const std::string& name,
                                   const fs::path& out) {
  SAVIOR_ASSIGN_OR_RETURN(const BundleChain chain, OpenChain(dir, name, /*digests=*/true));
  const Bundle& newest = chain.newest();
  BundleManifest manifest = newest.manifest;
  if (!manifest.base) {
    return absl::FailedPreconditionError(
        fmt::format("{}: is a full bundle already", newest.folder.string()));
  }
  manifest.base.reset();
  manifest.sequence = 0;
  manifest.files.clear();
  return WriteBundle(out, std::move(manifest), [&](const fs::path& part, BundleManifest* whole) {
    for (const SealedFile& file : newest.manifest.files) {
      if (file.path.starts_with("tables/")) continue;
      SAVIOR_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(newest.folder / file.path));
      SAVIOR_RETURN_IF_ERROR(WriteFile(part / file.path, bytes));
    }
    whole->tables.clear();
    for (const BundleManifest::Table& table : newest.manifest.tables) {
      SAVIOR_RETURN_IF_ERROR(MergeTable(chain, table.name, part, whole));
    }
    SAVIOR_ASSIGN_OR_RETURN(const Config config, LoadConfig((part / kResolvedFile).string(), {}));
    return WriteDerivedTables(part, config, newest.manifest.precision, &whole->tables);
  });
}

}  // namespace savior
