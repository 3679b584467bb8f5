// From a batch to what a step needs: the unique keys of every table, where they occur, and their
// rows.
//
// Each row is pulled, projected and updated once per step, however often it occurs.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/store.h"
#include "worker/arm.h"
#include "worker/data/batch.h"
#include "worker/data/training_log.h"
#include "worker/tables.h"

namespace savior {

// Unique keys of one table in first-seen order, and the rows pulled for them.
struct Lookup {
  std::vector<uint64_t> keys;     // [n] unique
  std::vector<float> rows;        // [n, dim], after FetchRows
  std::vector<uint32_t> updates;  // [n], after FetchRows, where the model asks for it
};

// Indices are int64, as at::embedding likes them. R requests, N rows, T positions; U unique items,
// of which the first `candidates` occur as candidates; C unique contents.
struct StepInputs {
  Batch batch;
  Lookup user, item, feature, align, content_vector, prefix;
  std::vector<float> z;                // [C, dim]
  std::vector<uint64_t> content_keys;  // [C]

  int64_t candidates = 0;                 // <= U
  std::vector<int64_t> user_of_row;       // [N] into user
  std::vector<int64_t> item_of_row;       // [N] into item, < candidates
  std::vector<int64_t> item_of_position;  // [T] into item
  std::vector<int64_t> content_of_item;   // [U] into contents; C: no vector
  std::vector<int64_t> features_of_item;  // [F, U or candidates] into feature
  std::vector<int64_t> context_of_row;    // [context features, N] into feature
  std::vector<int64_t> codes_of_content;  // [levels, C] into align
  // [levels - 1, C] into prefix, shortest first; empty without model.prefix_ngrams.
  std::vector<int64_t> prefixes_of_content;
  std::vector<float> numerics;  // [N, num_numerics]
};

// Knows the log and the model's shape. Single-threaded; keeps a bounded cache of content rows: who
// puts others tells it (UseCodebook, ForgetContents).
class StepAssembler {
 public:
  // `log` must outlive the assembler. Of codebook version 0.
  StepAssembler(const TrainingLog* log, const Config& config);

  // From now on codes and keys of alignment rows are those of `version`, made by `build`
  // (worker/tables.h). Forgets contents.
  void UseCodebook(uint32_t version, uint32_t build);
  uint32_t codebook_version() const { return codebook_version_; }
  // Drops the cache of content rows: others were put, for contents that are new, or beside the
  // codes in use.
  void ForgetContents();

  int64_t num_numerics() const { return num_numerics_; }
  int64_t num_features() const { return static_cast<int64_t>(item_feature_keys_.size()); }
  int64_t num_context() const { return static_cast<int64_t>(context_keys_.size()); }

  // Keys and indices; content rows (z and codes) come from the cache or, where it misses, from
  // `store`.
  [[nodiscard]] absl::StatusOr<StepInputs> Assemble(Batch batch, EmbeddingStore& store,
                                                    Deadline deadline);

 private:
  void AssembleItems(StepInputs& in);
  void AssembleFeatures(StepInputs& in);
  void AssembleNumerics(StepInputs& in) const;
  absl::Status AssembleContents(StepInputs& in, EmbeddingStore& store, Deadline deadline);
  absl::Status FetchContents(const std::vector<uint64_t>& keys, EmbeddingStore& store,
                             Deadline deadline);

  const TrainingLog* const log_;
  const Arm arm_;
  const ContentLayout content_;
  const uint64_t num_codes_;
  const size_t prefixes_;  // of a content
  const bool features_of_history_;
  const bool content_vectors_;  // the model has a vector per content
  int64_t num_numerics_ = 0;
  uint32_t codebook_version_ = 0, build_ = 0;
  std::vector<std::vector<uint64_t>> item_feature_keys_;  // per feature: code -> key
  std::vector<std::vector<uint64_t>> context_keys_;
  std::vector<uint64_t> content_key_;  // content number -> key

  absl::flat_hash_map<uint64_t, int64_t> cached_;  // content key -> offset into cache_rows_
  std::vector<float> cache_rows_;
};

// Every content's key: the id of its first item. [num_contents]
std::vector<uint64_t> ContentKeys(const TrainingLog& log);

// The learned tables' keys of a step, for Hint.
std::vector<TableKeys> LearnedKeys(const StepInputs& in);

// A request for the learned rows of a step, all tables in one. Makes room for them; its spans are
// those of `in`, wherever that is moved. `tables`: the store's.
std::vector<TablePull> PullsOf(StepInputs& in, const std::vector<TableSpec>& tables);

// Pulls the learned rows of a step; of no step's clock (kAnyStep).
[[nodiscard]] absl::Status FetchRows(StepInputs& in, EmbeddingStore& store, Deadline deadline);

}  // namespace savior
