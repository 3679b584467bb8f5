// A commit's tables, and the log's catalogue, as the sorted files of a bundle. Of the codebook's
// versions a bundle has the one in use, under keys that name none.
#pragma once

#include <filesystem>
#include <vector>

#include "common/status.h"
#include "launcher/added_items.h"
#include "launcher/inspected_commit.h"
#include "serving/bundle.h"
#include "worker/data/training_log.h"

namespace savior {

// Writes tables into `folder`/tables. Single-threaded, but for those who read rows ahead of it;
// memory: a few MiB for each of these besides the catalogue's counts (4 bytes per item).
class BundleTables {
 public:
  // `base`: null for full tables, else what these are the difference from. All outlive it.
  // `threads` read rows; which files come out does not depend on how many.
  // The catalogue is the log's, and what was added to it.
  BundleTables(InspectedCommit* commit, const TrainingLog* log, const AddedItems* added,
               Precision precision, const BundleChain* base, std::filesystem::path folder,
               size_t threads);

  // All tables that the arm uses, and the catalogue; for a full bundle z~, too. Their counts.
  [[nodiscard]] absl::StatusOr<std::vector<BundleManifest::Table>> Write();

 private:
  absl::StatusOr<std::unique_ptr<TableWriter>> Create(const std::string& name,
                                                      std::vector<Column> columns);
  absl::Status Finish(const std::string& name, TableWriter* writer);
  absl::Status WriteRows(uint32_t table);
  absl::Status WriteContent();
  absl::Status WriteItems();

  InspectedCommit& commit_;
  const TrainingLog& log_;
  const AddedItems& added_;
  const Precision precision_;
  const BundleChain* const base_;
  const std::filesystem::path folder_;
  const size_t threads_;
  TableChain base_table_;  // of the writer at work
  std::vector<BundleManifest::Table> tables_;
};

// What of a full bundle follows from the rest, which is in `folder`: z~, if the arm has content.
// Adds to `tables`.
[[nodiscard]] absl::Status WriteDerivedTables(const std::filesystem::path& folder,
                                              const Config& config, Precision precision,
                                              std::vector<BundleManifest::Table>* tables);

// HugeCTR HPS's layout, of the full tables in `folder`/tables: `folder`/hps/<table>.model/key
// (int64) and /emb_vector (float32, the rows in the keys' order); all little-endian.
[[nodiscard]] absl::Status WriteHps(const std::filesystem::path& folder, const Config& config);

}  // namespace savior
