// What a commit says, in a few digits: two runs that learned the same print the same, whatever
// their shards, files and machines, and whatever lies beside the codebook version in use: what
// became of a refresh that was given up, or the version before.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/files.h"
#include "launcher/inspect.h"
#include "launcher/inspected_commit.h"
#include "worker/tables.h"

namespace savior {
namespace {

using Json = nlohmann::ordered_json;

// XXH3-128 of rows in the order of their keys, in bounded memory: whenever enough bytes are there,
// their digest takes their place. Where that is depends on the rows alone.
class RowsDigest {
 public:
  void Add(const StoredRow& row) {
    Append(std::span(&row.key, 1));
    Append(std::span(&row.updates, 1));
    Append(std::span(&row.last_step, 1));
    Append(row.weights);
    Append(row.state);
    if (bytes_.size() >= kSlice) bytes_ = DigestBytes(bytes_);
  }
  std::string Hex() const { return DigestBytes(bytes_); }

 private:
  static constexpr size_t kSlice = size_t{1} << 20;

  template <typename T>
  void Append(std::span<T> values) {
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }

  std::string bytes_;
};

// A row as it is where the codebook version in use is alone; false: it is of another version.
class VersionInUse {
 public:
  VersionInUse(const InspectedCommit& inspected, uint32_t table)
      : inspected_(inspected),
        table_(table),
        slot_(CodebookSlot(inspected.codebook_version())),
        layout_(ContentLayout::Of(inspected.config())) {}

  bool Take(StoredRow* row) {
    const std::optional<uint64_t> key = inspected_.KeyInBundle(table_, row->key);
    if (!key) return false;
    row->key = *key;
    if (table_ == kContentTable && row->weights.size() >= layout_.codes(slot_) + layout_.levels) {
      const auto z = row->weights.subspan(layout_.z(slot_), layout_.dim);
      const auto codes = row->weights.subspan(layout_.codes(slot_), layout_.levels);
      alone_.assign(z.begin(), z.end());
      alone_.insert(alone_.end(), codes.begin(), codes.end());
      row->weights = alone_;
      row->updates = 1;  // it was put again with what came beside
    }
    return true;
  }

 private:
  const InspectedCommit& inspected_;
  const uint32_t table_, slot_;
  const ContentLayout layout_;
  std::vector<float> alone_;
};

absl::StatusOr<Json> DigestOf(InspectedCommit& inspected, uint32_t table) {
  SAVIOR_ASSIGN_OR_RETURN(const auto rows, inspected.store().Rows(table, InspectDeadline()));
  VersionInUse in_use(inspected, table);
  RowsDigest digest;
  uint64_t count = 0, updates = 0;
  while (true) {
    SAVIOR_ASSIGN_OR_RETURN(const bool more, rows->Next());
    if (!more) break;
    StoredRow row = rows->row();
    if (!in_use.Take(&row)) continue;
    digest.Add(row);
    ++count;
    updates += row.updates;
  }
  return Json{{"rows", count}, {"updates", updates}, {"digest", digest.Hex()}};
}

}  // namespace

absl::Status InspectDigest(const InspectArguments& arguments, std::ostream& out) {
  SAVIOR_ASSIGN_OR_RETURN(const auto inspected, InspectedCommit::Open(arguments.path));
  const CommitManifest& manifest = inspected->commit().manifest;
  Json json = {{"step", manifest.step},
               {"samples", manifest.samples},
               {"codebook_version", manifest.codebook.version}};
  for (const SealedFile& file : manifest.files) {
    if (file.path == kDenseFile) json["dense"] = file.xxh3;
  }
  for (uint32_t t = 0; t < manifest.tables.size(); ++t) {
    SAVIOR_ASSIGN_OR_RETURN(json["tables"][manifest.tables[t].name], DigestOf(*inspected, t));
  }
  if (arguments.json) {
    out << json.dump(2) << "\n";
    return absl::OkStatus();
  }
  out << fmt::format(
      "{}\nstep {}, {} impressions trained on, codebook version {}\n\n{:<16} {:>12} {:>12}  {}\n",
      inspected->commit().folder.string(), manifest.step, manifest.samples,
      manifest.codebook.version, "table", "rows", "updates", "XXH3-128");
  const auto line = [&out](const std::string& name, const std::string& rows,
                           const std::string& updates, const std::string& digest) {
    out << fmt::format("{:<16} {:>12} {:>12}  {}\n", name, rows, updates, digest);
  };
  for (const auto& [name, table] : json["tables"].items()) {
    line(name, table["rows"].dump(), table["updates"].dump(), table["digest"].get<std::string>());
  }
  line("dense weights", "", "", json.value("dense", std::string()));
  return absl::OkStatus();
}

}  // namespace savior
