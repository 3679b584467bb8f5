// Items that a run's training log does not have yet, as `savior add-items` has been given them:
// they can be ranked before any day of training data contains them (docs/serving.md).
//
//   <run>/items/<n, 6 digits>-<digest>/    a catalogue (PrepareCatalogue), never changed
//
// What the log knows, the log says: an item that has come into it since is no added one any more.
// Of two catalogues with one item the earlier one counts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"
#include "common/store.h"
#include "launcher/commit.h"
#include "worker/content.h"
#include "worker/data/training_log.h"

namespace savior {

struct AddedItem {
  int64_t id = 0;
  int64_t listed_at = 0;
  uint64_t content_key = 0;       // kNoContent (serving/bundle_model.h): it has no vector
  std::vector<int32_t> features;  // codes in AddedItems::schema, in its order
  std::vector<float> numerics;    // in the schema's order
  const TrainingLog* catalogue = nullptr;
  int32_t content = -1;  // its number in `catalogue`
};

// Thread-compatible. Memory: what is in AddedItem, per item; vectors stay mapped.
class AddedItems {
 public:
  // Those of `run`, a run's folder, that `log` does not have; none where there is no items/ in it.
  // kDataLoss: a catalogue is damaged (file named); kFailedPrecondition: `log` has another schema.
  [[nodiscard]] static absl::StatusOr<AddedItems> Of(const std::filesystem::path& run,
                                                     const TrainingLog& log);

  // The log's, with the strings that only added items have at the ends of the vocabularies.
  const LogSchema& schema() const { return schema_; }
  const std::vector<AddedItem>& items() const { return items_; }  // by ascending id
  const AddedItem* Find(int64_t id) const;                        // null: none

  // Puts rows of contents that `log` does not have, either, into the content table `store` of
  // `commit`: z by its encoder, codes by its codebook. Returns how many.
  [[nodiscard]] absl::StatusOr<int64_t> PutContents(const Commit& commit, const Config& config,
                                                    const Content& content,
                                                    EmbeddingStore& store) const;

 private:
  // A catalogue's contents that are nobody's before it.
  struct NewContents {
    const TrainingLog* catalogue = nullptr;
    std::vector<int32_t> contents;
    std::vector<uint64_t> keys;  // the smallest added id of each
  };

  std::vector<std::unique_ptr<TrainingLog>> catalogues_;
  LogSchema schema_;
  std::vector<AddedItem> items_;
  std::vector<NewContents> contents_;
};

struct AddItemsArguments {
  std::string run, items;
};

// Takes the items of folder `arguments.items` (items and item_vectors as in docs/datasets.md) into
// the run, durably; a job of the run may go on meanwhile. Items that are known already, with the
// same vector, are passed over, so that again changes nothing. kInvalidArgument names file, row and
// column of what is refused: all that `savior prepare` refuses, other columns than the run's items
// have, a known item with another vector. kNotFound: no run there.
[[nodiscard]] absl::Status AddItems(const AddItemsArguments& arguments, std::ostream& out);

}  // namespace savior
