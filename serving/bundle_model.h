// A bundle chain loaded for scoring: configuration, schema, weights, and rows by key.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/initial_row.h"
#include "common/status.h"
#include "common/tensor_file.h"
#include "serving/aligner.h"
#include "serving/bundle.h"
#include "serving/ranker_graph.h"
#include "worker/arm.h"
#include "worker/data/training_log.h"
#include "worker/model/codebook.h"
#include "worker/model/encoder.h"

namespace savior {

// Columns of the catalogue (table "items"); `features` and `numerics` only where the schema has
// some.
inline constexpr const char* kListedAtColumn = "listed_at";      // I64, unix seconds
inline constexpr const char* kContentColumn = "content";         // U64, kNoContent: no vector
inline constexpr const char* kPriorCountColumn = "prior_count";  // I32, behaviours so far
inline constexpr const char* kFeaturesColumn = "features";       // I32 [F] codes into vocabularies
inline constexpr const char* kNumericsColumn = "numerics";       // F32 [n] as in the data
inline constexpr uint64_t kNoContent = UINT64_MAX;
inline constexpr const char* kZColumn = "z";          // of table "content": dim floats
inline constexpr const char* kCodesColumn = "codes";  // of table "content": U16 [levels]

std::vector<Column> ItemColumns(const LogSchema& schema);
RankerSizes SizesOf(const LogSchema& schema);
// `codes`: whether the arm uses them. z is float32 whatever the precision of rows: SimTier counts
// cosines in bins, so that the smallest change of z may move a count.
std::vector<Column> ContentColumns(const Config& config, bool codes);

// Writes z~ of every content of `content` to a full table: what tables/aligned.safetensors is.
[[nodiscard]] absl::Status WriteAligned(const std::filesystem::path& path, const Config& config,
                                        const Aligner& aligner, const TableChain& content,
                                        Precision precision);

struct CatalogueItem {
  int64_t listed_at = 0;
  int64_t prior_count = 0;
  std::optional<uint64_t> content = {};
  std::span<const int32_t> features = {};  // [F]
  std::span<const float> numerics = {};    // [n]
};

struct ColdContent {
  std::vector<float> z, aligned;  // [dim]
  std::vector<uint16_t> codes;    // [levels]
};

// Immutable, thread-safe. Rows that are missing read as they do in training: as their initial
// values, or zeros.
class BundleModel {
 public:
  // kDataLoss: a file is missing or does not fit the others (named). A chain with deltas has no z~
  // of its own: it is computed, into a file below `scratch` that goes with this object.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<BundleModel>> Load(
      const BundleChain& chain, const std::filesystem::path& scratch);

  const Config& config() const { return config_; }
  const Arm& arm() const { return arm_; }
  const LogSchema& schema() const { return schema_; }
  const TensorFile& ranker() const { return ranker_; }
  uint64_t items() const { return items_count_; }
  bool has_content() const { return arm_.uses_contents(); }

  // row [id_dim]; no key: zeros, the mean of initial rows.
  void UserRow(std::optional<uint64_t> key, std::span<float> row) const;
  void ItemRow(std::optional<uint64_t> key, std::span<float> row) const;
  std::optional<CatalogueItem> FindItem(uint64_t id) const;
  // The row of a value of feature `feature` (item features first, then context features).
  std::span<const float> FeatureRow(size_t feature, int32_t code) const;  // [feature_dim]
  // 0: not in the vocabulary.
  int32_t FeatureCode(size_t feature, const std::string& value) const;

  // Numbers by name. Of categorical features: item features first, then context features; of
  // numerics: item numerics, then context numerics (a name that both have is the latter's).
  std::optional<size_t> FeatureNumber(const std::string& name) const;
  std::optional<size_t> NumericNumber(const std::string& name) const;

  // z, aligned [dim], or empty: not wanted. Zeros if the content is not there.
  void Content(uint64_t key, std::span<float> z, std::span<float> aligned) const;
  // Rows of the align table, coarse to fine, then those of the prefixes, shortest first (none
  // without model.prefix_ngrams): codes [levels] -> rows [(levels + prefixes) * dim].
  void CodeRows(std::span<const uint16_t> codes, std::span<float> rows) const;
  std::optional<std::vector<uint16_t>> Codes(uint64_t key) const;

  // Of raw vectors, one modality after the other in schema order (zeros: absent); [sum of dims].
  ColdContent Encode(std::span<const float> x) const;

 private:
  struct IdTable {
    TableChain rows;
    RowDecoder decoder;
    std::shared_ptr<const InitialRow> initial;
    void Read(std::optional<uint64_t> key, std::span<float> row) const;
  };

  BundleModel() = default;
  absl::Status LoadFiles(const Bundle& newest);
  absl::Status LoadTables(const BundleChain& chain);
  absl::Status LoadContent(const BundleChain& chain, const std::filesystem::path& scratch);
  absl::Status LoadFeatures(const BundleChain& chain);
  absl::StatusOr<IdTable> LoadIds(const BundleChain& chain, uint32_t table) const;

  Config config_;
  Arm arm_;
  LogSchema schema_;
  TensorFile ranker_;
  std::unique_ptr<Encoder> encoder_;
  std::unique_ptr<Codebook> codebook_;
  std::optional<Aligner> aligner_;

  IdTable users_, items_, align_;
  IdTable prefix_;  // with model.prefix_ngrams
  TableChain catalogue_, content_, aligned_;
  RowDecoder z_, aligned_row_;
  uint64_t items_count_ = 0;
  // By feature, item features first.
  std::vector<std::vector<float>> feature_rows_;  // [vocabulary, feature_dim]
  std::vector<absl::flat_hash_map<std::string, int32_t>> feature_codes_;
  absl::flat_hash_map<std::string, size_t> feature_numbers_, numeric_numbers_;
};

}  // namespace savior
