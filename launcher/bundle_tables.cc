#include "launcher/bundle_tables.h"

#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "serving/bundle_model.h"
#include "worker/step_inputs.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

template <typename T>
void Append(std::span<const T> values, std::vector<std::byte>* record) {
  const std::span<const std::byte> bytes = std::as_bytes(values);
  record->insert(record->end(), bytes.begin(), bytes.end());
}
template <typename T>
void Append(const T& value, std::vector<std::byte>* record) {
  Append(std::span(&value, 1), record);
}

// Behaviours with every item, of the whole log.
std::vector<int32_t> PriorCounts(const TrainingLog& log) {
  std::vector<int32_t> counts(static_cast<size_t>(log.num_items()));
  for (int64_t user = 0; user < log.num_users(); ++user) {
    for (const int32_t item : log.timeline(user).items) ++counts[static_cast<size_t>(item)];
  }
  return counts;
}

absl::Status WriteHpsTable(const fs::path& folder, const TableChain& table,
                           const std::string& column, uint32_t dim) {
  SAVIOR_ASSIGN_OR_RETURN(const RowDecoder decoder, RowDecoder::Of(table.columns(), column, dim));
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(folder));
  std::ofstream keys(folder / "key", std::ios::binary);
  std::ofstream rows(folder / "emb_vector", std::ios::binary);
  std::vector<float> row(dim);
  for (TableChain::Cursor cursor(&table); cursor.at(); cursor.Next()) {
    const uint64_t key = cursor.at()->key();
    decoder.Decode(*cursor.at(), row);
    keys.write(reinterpret_cast<const char*>(&key), sizeof(key));
    rows.write(reinterpret_cast<const char*>(row.data()),
               static_cast<std::streamsize>(row.size() * sizeof(float)));
  }
  keys.close();
  rows.close();
  if (keys && rows) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("writing {}: the disk is full, or went away", folder.string()));
}

}  // namespace

BundleTables::BundleTables(InspectedCommit* commit, const TrainingLog* log, const AddedItems* added,
                           Precision precision, const BundleChain* base, fs::path folder,
                           size_t threads)
    : commit_(*commit),
      log_(*log),
      added_(*added),
      precision_(precision),
      base_(base),
      folder_(std::move(folder)),
      threads_(threads) {}

absl::StatusOr<std::vector<BundleManifest::Table>> BundleTables::Write() {
  for (const uint32_t table :
       {kUserTable, kItemTable, kFeatureTable, kAlignTable, kContentVectorTable}) {
    SAVIOR_RETURN_IF_ERROR(WriteRows(table));
  }
  if (commit_.config().model.prefix_ngrams) SAVIOR_RETURN_IF_ERROR(WriteRows(kPrefixTable));
  SAVIOR_RETURN_IF_ERROR(WriteItems());
  if (ArmOf(commit_.config().model.arm).uses_contents()) SAVIOR_RETURN_IF_ERROR(WriteContent());
  if (base_ == nullptr) {
    SAVIOR_RETURN_IF_ERROR(WriteDerivedTables(folder_, commit_.config(), precision_, &tables_));
  }
  return std::move(tables_);
}

absl::StatusOr<std::unique_ptr<TableWriter>> BundleTables::Create(const std::string& name,
                                                                  std::vector<Column> columns) {
  const fs::path path = folder_ / TableFileName(name);
  if (base_ == nullptr) return TableWriter::Create(path, std::move(columns), nullptr);
  SAVIOR_ASSIGN_OR_RETURN(base_table_, base_->Table(name));
  return TableWriter::Create(path, std::move(columns), &base_table_);
}

absl::Status BundleTables::Finish(const std::string& name, TableWriter* writer) {
  SAVIOR_ASSIGN_OR_RETURN(const TableWriter::Counts counts, writer->Finish());
  tables_.push_back({name, counts.rows, counts.gone, counts.total});
  return absl::OkStatus();
}

absl::Status BundleTables::WriteRows(uint32_t table) {
  const TableSpec& spec = commit_.store().tables()[table];
  std::vector<Column> columns = RowColumns("row", spec.dim, precision_);
  // How often a content's vector was updated says how far it is trusted.
  const bool updates = table == kContentVectorTable;
  if (updates) columns.push_back({kUpdatesColumn, ColumnType::kU32, 1});
  SAVIOR_ASSIGN_OR_RETURN(const auto writer, Create(spec.name, std::move(columns)));
  const size_t row_bytes = EncodedBytes(spec.dim, precision_);
  std::vector<std::byte> record;
  const auto add = [&](const StoredRow& row) {
    const std::optional<uint64_t> key = commit_.KeyInBundle(table, row.key);
    if (!key) return absl::OkStatus();
    record.resize(row_bytes);
    EncodeRow(row.weights, precision_, record.data());
    if (updates) Append(row.updates, &record);
    return writer->Add(*key, record);
  };
  SAVIOR_RETURN_IF_ERROR(commit_.store().ForEachRow(table, add, InspectDeadline(), threads_));
  return Finish(spec.name, writer.get());
}

absl::Status BundleTables::WriteContent() {
  const Config& config = commit_.config();
  const bool codes = ArmOf(config.model.arm).uses_codes();
  const ContentLayout layout = ContentLayout::Of(config);
  const size_t z = layout.z(commit_.codebook_version());
  const size_t from = layout.codes(commit_.codebook_version());
  const std::string& name = commit_.store().tables()[kContentTable].name;
  SAVIOR_ASSIGN_OR_RETURN(const auto writer, Create(name, ContentColumns(config, codes)));
  std::vector<std::byte> record;
  const auto add = [&](const StoredRow& row) {
    record.clear();
    Append(row.weights.subspan(z, layout.dim),
           &record);  // z is float32 whatever the precision of rows
    for (size_t l = 0; codes && l < layout.levels; ++l) {
      Append(static_cast<uint16_t>(row.weights[from + l]), &record);
    }
    return writer->Add(row.key, record);
  };
  SAVIOR_RETURN_IF_ERROR(
      commit_.store().ForEachRow(kContentTable, add, InspectDeadline(), threads_));
  return Finish(name, writer.get());
}

absl::Status BundleTables::WriteItems() {
  const LogSchema& schema = log_.schema();
  SAVIOR_ASSIGN_OR_RETURN(const auto writer, Create(kItemsTable, ItemColumns(schema)));
  const std::vector<int32_t> counts = PriorCounts(log_);
  const std::vector<uint64_t> content_keys = ContentKeys(log_);
  std::vector<std::byte> record;
  // Keys are unsigned: ids below 0, which come first in both, are the last ones.
  const auto key_of = [](const AddedItem* item) { return static_cast<uint64_t>(item->id); };
  std::vector<const AddedItem*> more;
  for (const AddedItem& item : added_.items()) more.push_back(&item);
  std::ranges::sort(more, {}, key_of);
  auto added = more.begin();
  const auto add_until = [&](std::optional<uint64_t> key) -> absl::Status {
    for (; added != more.end() && (!key || key_of(*added) < *key); ++added) {
      record.clear();
      Append((*added)->listed_at, &record);
      Append((*added)->content_key, &record);
      Append(int32_t{0}, &record);  // nobody has had anything to do with it
      Append(std::span<const int32_t>((*added)->features), &record);
      Append(std::span<const float>((*added)->numerics), &record);
      SAVIOR_RETURN_IF_ERROR(writer->Add(key_of(*added), record));
    }
    return absl::OkStatus();
  };
  const auto ids = log_.item_ids();
  const auto below_zero = static_cast<size_t>(std::ranges::lower_bound(ids, 0) - ids.begin());
  for (size_t n = 0; n < counts.size(); ++n) {
    const size_t i = (below_zero + n) % counts.size();
    SAVIOR_RETURN_IF_ERROR(add_until(static_cast<uint64_t>(ids[i])));
    const int32_t content = log_.item_contents()[i];
    record.clear();
    Append(log_.listed_at()[i], &record);
    Append(content < 0 ? kNoContent : content_keys[static_cast<size_t>(content)], &record);
    Append(counts[i], &record);
    for (size_t f = 0; f < schema.item_features.size(); ++f) {
      Append(log_.item_feature(f)[i], &record);
    }
    for (size_t f = 0; f < schema.item_numerics.size(); ++f) {
      Append(log_.item_numeric(f)[i], &record);
    }
    SAVIOR_RETURN_IF_ERROR(writer->Add(static_cast<uint64_t>(ids[i]), record));
  }
  SAVIOR_RETURN_IF_ERROR(add_until(std::nullopt));
  return Finish(kItemsTable, writer.get());
}

absl::Status WriteDerivedTables(const fs::path& folder, const Config& config, Precision precision,
                                std::vector<BundleManifest::Table>* tables) {
  if (!ArmOf(config.model.arm).uses_contents()) return absl::OkStatus();
  const auto chain = [&folder](const char* name) -> absl::StatusOr<TableChain> {
    SAVIOR_ASSIGN_OR_RETURN(auto file, TableFile::Open(folder / TableFileName(name)));
    return TableChain::Of({std::move(file)});
  };
  SAVIOR_ASSIGN_OR_RETURN(const TensorFile ranker, ReadTensorFile(folder / kBundleRanker));
  Aligner::Tables rows;
  SAVIOR_ASSIGN_OR_RETURN(rows.align, chain("align"));
  if (config.model.prefix_ngrams) {
    SAVIOR_ASSIGN_OR_RETURN(rows.prefix, chain("prefix"));
  }
  SAVIOR_ASSIGN_OR_RETURN(rows.content_vector, chain("content_vector"));
  SAVIOR_ASSIGN_OR_RETURN(const TableChain content, chain("content"));
  SAVIOR_ASSIGN_OR_RETURN(const Aligner aligner, Aligner::Of(config, ranker, std::move(rows)));
  SAVIOR_RETURN_IF_ERROR(
      WriteAligned(folder / TableFileName(kAlignedTable), config, aligner, content, precision));
  SAVIOR_ASSIGN_OR_RETURN(const TableChain aligned, chain(kAlignedTable));
  const uint64_t total = aligned.files()[0]->rows();
  tables->push_back({kAlignedTable, total, 0, total});
  return absl::OkStatus();
}

absl::Status WriteHps(const fs::path& folder, const Config& config) {
  struct HpsTable {
    std::string name, column;
    int64_t dim;
  };
  std::vector<HpsTable> tables = {{"user", "row", config.model.id_dim},
                                  {"item", "row", config.model.id_dim},
                                  {"feature", "row", config.model.feature_dim}};
  if (ArmOf(config.model.arm).uses_contents()) {
    tables.push_back({"content", kZColumn, config.encoder.dim});
    tables.push_back({kAlignedTable, "row", config.encoder.dim});
  }
  for (const HpsTable& table : tables) {
    SAVIOR_ASSIGN_OR_RETURN(auto file, TableFile::Open(folder / TableFileName(table.name)));
    SAVIOR_ASSIGN_OR_RETURN(const TableChain chain, TableChain::Of({std::move(file)}));
    SAVIOR_RETURN_IF_ERROR(WriteHpsTable(folder / "hps" / (table.name + ".model"), chain,
                                         table.column, static_cast<uint32_t>(table.dim)));
  }
  return absl::OkStatus();
}

}  // namespace savior
