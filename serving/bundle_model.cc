#include "serving/bundle_model.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "common/files.h"
#include "common/unique_number.h"
#include "worker/data/log_schema.h"
#include "worker/numerics.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

// Where a value of one column lies, as its own type.
template <typename T>
std::span<const T> ValuesOf(const TableChain::Place& place, size_t column) {
  const std::span<const std::byte> bytes = place.file->Value(column, place.row);
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

template <typename T>
T ValueOf(const TableChain::Place& place, size_t column) {
  return ValuesOf<T>(place, column)[0];
}

absl::Status CheckColumns(const Bundle& bundle, const std::string& table,
                          const std::vector<Column>& found, const std::vector<Column>& wanted) {
  if (found == wanted) return absl::OkStatus();
  return absl::DataLossError(fmt::format("{}: its columns are not those of {}",
                                         bundle.TablePath(table).string(), kBundleSchema));
}

// Items' columns by number: the schema decides which there are.
constexpr size_t kListedAt = 0, kContent = 1, kPriorCount = 2, kMore = 3;

}  // namespace

std::vector<Column> ItemColumns(const LogSchema& schema) {
  std::vector<Column> columns = {{kListedAtColumn, ColumnType::kI64, 1},
                                 {kContentColumn, ColumnType::kU64, 1},
                                 {kPriorCountColumn, ColumnType::kI32, 1}};
  const auto add = [&](const char* name, ColumnType type, size_t width) {
    if (width > 0) columns.push_back({name, type, static_cast<uint32_t>(width)});
  };
  add(kFeaturesColumn, ColumnType::kI32, schema.item_features.size());
  add(kNumericsColumn, ColumnType::kF32, schema.item_numerics.size());
  return columns;
}

RankerSizes SizesOf(const LogSchema& schema) {
  return {.features = static_cast<int64_t>(schema.item_features.size()),
          .context = static_cast<int64_t>(schema.context_features.size()),
          .numerics = kOwnNumerics + static_cast<int64_t>(schema.item_numerics.size() +
                                                          schema.context_numerics.size())};
}

std::vector<Column> ContentColumns(const Config& config, bool codes) {
  std::vector<Column> columns =
      RowColumns(kZColumn, static_cast<uint32_t>(config.encoder.dim), Precision::kFloat32);
  if (codes) {
    columns.push_back(
        {kCodesColumn, ColumnType::kU16, static_cast<uint32_t>(config.codebook.levels)});
  }
  return columns;
}

absl::Status WriteAligned(const fs::path& path, const Config& config, const Aligner& aligner,
                          const TableChain& content, Precision precision) {
  const auto dim = static_cast<uint32_t>(config.encoder.dim);
  SAVIOR_ASSIGN_OR_RETURN(const RowDecoder z_row, RowDecoder::Of(content.columns(), kZColumn, dim));
  SAVIOR_ASSIGN_OR_RETURN(auto writer,
                          TableWriter::Create(path, RowColumns("row", dim, precision), nullptr));
  const bool codes = content.columns().back().name == kCodesColumn;
  std::vector<float> z(dim), aligned(dim);
  std::vector<std::byte> record(EncodedBytes(dim, precision));
  for (TableChain::Cursor cursor(&content); cursor.at(); cursor.Next()) {
    z_row.Decode(*cursor.at(), z);
    const auto codes_of = codes ? ValuesOf<uint16_t>(*cursor.at(), content.columns().size() - 1)
                                : std::span<const uint16_t>();
    aligner.Align(z, codes_of, cursor.at()->key(), aligned);
    EncodeRow(aligned, precision, record.data());
    SAVIOR_RETURN_IF_ERROR(writer->Add(cursor.at()->key(), record));
  }
  return writer->Finish().status();
}

absl::StatusOr<std::unique_ptr<BundleModel>> BundleModel::Load(const BundleChain& chain,
                                                               const fs::path& scratch) {
  std::unique_ptr<BundleModel> model(new BundleModel);
  SAVIOR_RETURN_IF_ERROR(model->LoadFiles(chain.newest()));
  SAVIOR_RETURN_IF_ERROR(model->LoadTables(chain));
  SAVIOR_RETURN_IF_ERROR(model->LoadFeatures(chain));
  if (model->has_content()) SAVIOR_RETURN_IF_ERROR(model->LoadContent(chain, scratch));
  return model;
}

absl::Status BundleModel::LoadFiles(const Bundle& newest) {
  SAVIOR_ASSIGN_OR_RETURN(config_, LoadConfig((newest.folder / "resolved.toml").string(), {}));
  arm_ = ArmOf(config_.model.arm);
  const fs::path schema = newest.folder / kBundleSchema;
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(schema));
  try {
    schema_ = SchemaFromJson(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& e) {
    return absl::DataLossError(fmt::format("{}: {}", schema.string(), e.what()));
  }
  SAVIOR_ASSIGN_OR_RETURN(ranker_, ReadTensorFile(newest.folder / kBundleRanker));
  const auto load = [&newest](const char* name, auto load_file, auto* to) -> absl::Status {
    std::error_code error;
    const fs::path path = newest.folder / name;
    if (!fs::exists(path, error)) return absl::OkStatus();
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(path));
    auto loaded = load_file(file);
    if (!loaded.ok()) return Annotate(loaded.status(), path.string());
    *to = *std::move(loaded);
    return absl::OkStatus();
  };
  SAVIOR_RETURN_IF_ERROR(load("encoder.safetensors", LoadEncoder, &encoder_));
  return load("codebook.safetensors", LoadCodebook, &codebook_);
}

absl::StatusOr<BundleModel::IdTable> BundleModel::LoadIds(const BundleChain& chain,
                                                          uint32_t table) const {
  const TableSpec spec = ModelTables(config_)[table];
  IdTable ids;
  SAVIOR_ASSIGN_OR_RETURN(ids.rows, chain.Table(spec.name));
  absl::StatusOr<RowDecoder> decoder = RowDecoder::Of(ids.rows.columns(), "row", spec.dim);
  if (!decoder.ok()) {
    return Annotate(decoder.status(), chain.newest().TablePath(spec.name).string());
  }
  ids.decoder = *decoder;
  ids.initial = std::make_shared<InitialRow>(spec, static_cast<uint64_t>(config_.seed));
  return ids;
}

absl::Status BundleModel::LoadTables(const BundleChain& chain) {
  SAVIOR_ASSIGN_OR_RETURN(users_, LoadIds(chain, kUserTable));
  SAVIOR_ASSIGN_OR_RETURN(items_, LoadIds(chain, kItemTable));
  SAVIOR_ASSIGN_OR_RETURN(align_, LoadIds(chain, kAlignTable));
  if (config_.model.prefix_ngrams) {
    SAVIOR_ASSIGN_OR_RETURN(prefix_, LoadIds(chain, kPrefixTable));
  }
  SAVIOR_ASSIGN_OR_RETURN(catalogue_, chain.Table(kItemsTable));
  for (const BundleManifest::Table& table : chain.newest().manifest.tables) {
    if (table.name == kItemsTable) items_count_ = table.total;
  }
  return CheckColumns(chain.newest(), kItemsTable, catalogue_.columns(), ItemColumns(schema_));
}

absl::Status BundleModel::LoadFeatures(const BundleChain& chain) {
  SAVIOR_ASSIGN_OR_RETURN(const IdTable table, LoadIds(chain, kFeatureTable));
  const auto dim = static_cast<size_t>(config_.model.feature_dim);
  for (const auto* numerics : {&schema_.item_numerics, &schema_.context_numerics}) {
    const size_t before = numerics == &schema_.item_numerics ? 0 : schema_.item_numerics.size();
    for (size_t i = 0; i < numerics->size(); ++i) numeric_numbers_[(*numerics)[i]] = before + i;
  }
  for (const auto* features : {&schema_.item_features, &schema_.context_features}) {
    for (const CategoricalFeature& feature : *features) {
      feature_numbers_[feature.name] = feature_rows_.size();
      std::vector<float>& rows = feature_rows_.emplace_back(feature.vocabulary.size() * dim);
      auto& codes = feature_codes_.emplace_back();
      for (size_t v = 0; v < feature.vocabulary.size(); ++v) {
        table.Read(FeatureKey(feature.name, feature.vocabulary[v]),
                   std::span(rows).subspan(v * dim, dim));
        codes[feature.vocabulary[v]] = static_cast<int32_t>(v);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status BundleModel::LoadContent(const BundleChain& chain, const fs::path& scratch) {
  const auto dim = static_cast<uint32_t>(config_.encoder.dim);
  const Bundle& newest = chain.newest();
  SAVIOR_ASSIGN_OR_RETURN(content_, chain.Table("content"));
  SAVIOR_RETURN_IF_ERROR(CheckColumns(newest, "content", content_.columns(),
                                      ContentColumns(config_, arm_.uses_codes())));
  SAVIOR_ASSIGN_OR_RETURN(z_, RowDecoder::Of(content_.columns(), kZColumn, dim));
  SAVIOR_ASSIGN_OR_RETURN(TableChain vectors, chain.Table("content_vector"));
  SAVIOR_ASSIGN_OR_RETURN(aligner_, Aligner::Of(config_, ranker_,
                                                {.align = align_.rows,
                                                 .prefix = prefix_.rows,
                                                 .content_vector = std::move(vectors)}));
  if (encoder_ == nullptr || (arm_.uses_codes() && codebook_ == nullptr)) {
    return absl::DataLossError(
        fmt::format("{}: encoder or codebook is missing", newest.folder.string()));
  }
  fs::path path = newest.TablePath(kAlignedTable);
  const bool computed = newest.manifest.base.has_value();
  if (computed) {
    path = scratch / fmt::format("savior-aligned-{:016x}.safetensors", DrawUniqueNumber());
    SAVIOR_RETURN_IF_ERROR(
        WriteAligned(path, config_, *aligner_, content_, newest.manifest.precision));
  }
  absl::StatusOr<std::shared_ptr<const TableFile>> file = TableFile::Open(path);
  if (computed) ::unlink(path.c_str());  // it lives as long as it is mapped
  SAVIOR_RETURN_IF_ERROR(file.status());
  SAVIOR_ASSIGN_OR_RETURN(aligned_, TableChain::Of({*file}));
  SAVIOR_ASSIGN_OR_RETURN(aligned_row_, RowDecoder::Of(aligned_.columns(), "row", dim));
  return absl::OkStatus();
}

void BundleModel::IdTable::Read(std::optional<uint64_t> key, std::span<float> row) const {
  if (!key) {
    std::ranges::fill(row, 0.0f);
  } else if (const auto place = rows.Find(*key)) {
    decoder.Decode(*place, row);
  } else {
    initial->Write(*key, row.data());
  }
}

void BundleModel::UserRow(std::optional<uint64_t> key, std::span<float> row) const {
  users_.Read(key, row);
}

void BundleModel::ItemRow(std::optional<uint64_t> key, std::span<float> row) const {
  items_.Read(key, row);
}

std::optional<CatalogueItem> BundleModel::FindItem(uint64_t id) const {
  const auto place = catalogue_.Find(id);
  if (!place) return std::nullopt;
  CatalogueItem item{.listed_at = ValueOf<int64_t>(*place, kListedAt),
                     .prior_count = ValueOf<int32_t>(*place, kPriorCount)};
  if (const auto key = ValueOf<uint64_t>(*place, kContent); key != kNoContent) item.content = key;
  size_t column = kMore;
  if (!schema_.item_features.empty()) item.features = ValuesOf<int32_t>(*place, column++);
  if (!schema_.item_numerics.empty()) item.numerics = ValuesOf<float>(*place, column);
  return item;
}

std::span<const float> BundleModel::FeatureRow(size_t feature, int32_t code) const {
  const auto dim = static_cast<size_t>(config_.model.feature_dim);
  const std::span<const float> rows = feature_rows_[feature];
  // A code beyond the vocabulary cannot be but by damage; it reads as unknown.
  const size_t row = static_cast<size_t>(code) * dim < rows.size() ? static_cast<size_t>(code) : 0;
  return rows.subspan(row * dim, dim);
}

std::optional<size_t> BundleModel::FeatureNumber(const std::string& name) const {
  const auto found = feature_numbers_.find(name);
  return found == feature_numbers_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<size_t> BundleModel::NumericNumber(const std::string& name) const {
  const auto found = numeric_numbers_.find(name);
  return found == numeric_numbers_.end() ? std::nullopt : std::optional(found->second);
}

int32_t BundleModel::FeatureCode(size_t feature, const std::string& value) const {
  const auto found = feature_codes_[feature].find(value);
  return found == feature_codes_[feature].end() ? 0 : found->second;
}

void BundleModel::Content(uint64_t key, std::span<float> z, std::span<float> aligned) const {
  const auto read = [key](const TableChain& table, const RowDecoder& decoder,
                          std::span<float> row) {
    if (row.empty()) return;
    if (const auto place = table.Find(key)) {
      decoder.Decode(*place, row);
    } else {
      std::ranges::fill(row, 0.0f);
    }
  };
  read(content_, z_, z);
  read(aligned_, aligned_row_, aligned);
}

std::optional<std::vector<uint16_t>> BundleModel::Codes(uint64_t key) const {
  const auto place = content_.Find(key);
  if (!place || !arm_.uses_codes()) return std::nullopt;
  const auto codes = ValuesOf<uint16_t>(*place, content_.columns().size() - 1);
  return std::vector<uint16_t>(codes.begin(), codes.end());
}

void BundleModel::CodeRows(std::span<const uint16_t> codes, std::span<float> rows) const {
  const auto dim = static_cast<size_t>(config_.encoder.dim);
  for (size_t l = 0; l < codes.size(); ++l) {
    align_.Read(AlignKey(0, static_cast<uint32_t>(l), codes[l]), rows.subspan(l * dim, dim));
  }
  if (!config_.model.prefix_ngrams) return;
  std::span<float> rest = rows.subspan(codes.size() * dim);
  ForEachPrefix(0, codes, static_cast<uint64_t>(config_.codebook.codes), [&](uint64_t key) {
    prefix_.Read(key, rest.first(dim));
    rest = rest.subspan(dim);
  });
}

ColdContent BundleModel::Encode(std::span<const float> x) const {
  ColdContent cold;
  cold.z = encoder_->Encode(x);
  if (arm_.uses_codes()) {
    const std::vector<int32_t> codes = codebook_->Quantise(cold.z);
    cold.codes.assign(codes.begin(), codes.end());
  }
  cold.aligned.resize(cold.z.size());
  aligner_->Align(cold.z, cold.codes, std::nullopt, cold.aligned);
  return cold;
}

}  // namespace savior
